// The kernels for Python: addresses and strides in, nothing of torch or NumPy. Whoever calls checks shapes and types; a
// DLPack argument would cost more than the kernel does on a small batch.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "nearest.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace manyhot;

namespace {

const InstructionSet* chosen = nullptr;

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const InstructionSet& set : instruction_sets())
    if (set.here) names.emplace_back(set.name);
  return names;
}

void choose(const std::string& name) {
  for (const InstructionSet& set : instruction_sets())
    if (set.here && name == set.name) {
      chosen = &set;
      return;
    }
  throw std::invalid_argument("this machine has no instruction set " + name);
}

using Address = uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// Where the starts, indices and values of a sparse matrix are.
using Addresses = std::tuple<Address, Address, Address>;

Sparse sparse(const Addresses& of) {
  return {at<int64_t>(std::get<0>(of)), at<int32_t>(std::get<1>(of)), at<float>(std::get<2>(of))};
}

const Blocks& blocks_of(const Batch& batch) {
  return batch.logits_type == Type::float64 ? chosen->float64 : chosen->float32;
}

}  // namespace

NB_MODULE(_native, m) {
  chosen = nullptr;
  choose(available().front());
  m.attr("types") = nb::make_tuple("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
                                   "float64");
  m.attr("saved_numbers") = sizeof(Saved) / sizeof(double);
  m.attr("links") = nb::make_tuple("none", "zlpr", "pairwise", "single_log");
  m.def("instruction_sets", available, "Those of this machine, the best first.");
  m.def("use_instruction_set", choose, "For tests and measurements, and for the whole process.");

  m.def(
      "write_sets",
      [](int threads, int64_t rows, int64_t labels, Address logits, int type, int64_t logits_row, Address point,
         int64_t point_row, Address known, int64_t known_row, int64_t known_label, Address smallest, Address largest,
         Address value, Address gradient) {
        const Sets batch{rows,      labels,
                         at<void>(logits), logits_row,
                         at<void>(point),  point_row,
                         {at<void>(known), known_row, known_label},
                         at<int64_t>(smallest), at<int64_t>(largest),
                         at<double>(value), at<void>(gradient)};
        nb::gil_scoped_release release;
        manyhot::write_sets(Type(type) == Type::float64 ? chosen->float64 : chosen->float32, batch, threads);
      },
      nb::kw_only(), "threads"_a, "rows"_a, "labels"_a, "logits"_a, "type"_a, "logits_row"_a, "point"_a = 0,
      "point_row"_a = 0, "known"_a = 0, "known_row"_a = 0, "known_label"_a = 0, "smallest"_a, "largest"_a,
      "value"_a = 0, "gradient"_a = 0,
      "Write log sum_j Z_j(s) - sum_i t_i s_i of each row, and its gradient, where they are asked for.");

  m.def(
      "write_product",
      [](int threads, int64_t rows, int64_t columns, Address starts, Address indices, bool has_long_indices,
         Address values, int type, Address dense, int64_t dense_row, Address out, int64_t out_row) {
        const Product product{rows,           columns,          at<void>(starts), at<void>(indices), has_long_indices,
                              at<void>(values), at<void>(dense), dense_row,        at<void>(out),     out_row};
        nb::gil_scoped_release release;
        manyhot::write_product(Type(type) == Type::float64 ? chosen->float64 : chosen->float32, product, threads);
      },
      nb::kw_only(), "threads"_a, "rows"_a, "columns"_a, "starts"_a, "indices"_a, "has_long_indices"_a, "values"_a,
      "type"_a, "dense"_a, "dense_row"_a, "out"_a, "out_row"_a,
      "Write the product of a sparse matrix, held by rows, and a dense one.");

  m.def(
      "write_nearest",
      [](int threads, int64_t rows, int64_t features, const Addresses& by_row, const Addresses& postings,
         Address is_frequent, Address frequent, double longest, int64_t count, const Addresses& asked, int64_t most,
         Address product, Address row) {
        const Searched searched{rows,    features, sparse(by_row), sparse(postings), at<uint8_t>(is_frequent),
                                at<float>(frequent), longest};
        nb::gil_scoped_release release;
        manyhot::write_nearest(searched, sparse(asked), count, most, threads, at<float>(product),
                               at<int64_t>(row));
      },
      nb::kw_only(), "threads"_a, "rows"_a, "features"_a, "by_row"_a, "postings"_a, "is_frequent"_a, "frequent"_a,
      "longest"_a, "count"_a, "asked"_a, "most"_a, "product"_a, "row"_a,
      "Write the rows of a sparse matrix that have the largest products with each row asked.");

  nb::class_<Batch>(m, "Batch")
      .def(
          "__init__",
          [](Batch* self, int64_t rows, int64_t labels, Address logits, int logits_type, int64_t logits_row, double scale,
             double margin) {
            new (self) Batch{};
            self->rows = rows, self->labels = labels;
            self->logits = at<void>(logits), self->logits_type = Type(logits_type), self->logits_row = logits_row;
            self->scale = scale, self->margin = margin;
          },
          nb::kw_only(), "rows"_a, "labels"_a, "logits"_a, "logits_type"_a, "logits_row"_a, "scale"_a = 1.0,
          "margin"_a = 0.0)
      .def(
          "dense",
          [](Batch& self, Address targets, int type, int64_t row) {
            self.targets = at<void>(targets), self.targets_type = Type(type), self.targets_row = row;
          },
          nb::kw_only(), "targets"_a, "type"_a, "row"_a)
      .def(
          "listed",
          [](Batch& self, Address ids, Address offsets, int64_t width, Address soft) {
            self.ids = at<int64_t>(ids), self.offsets = at<int64_t>(offsets), self.width = width;
            self.soft = at<void>(soft);
          },
          nb::kw_only(), "ids"_a, "offsets"_a, "width"_a, "soft"_a)
      .def(
          "mask",
          [](Batch& self, Address data, int64_t row, int64_t label, int64_t every) {
            self.mask = {at<void>(data), row, label}, self.mask_every = every;
          },
          nb::kw_only(), "data"_a, "row"_a, "label"_a, "every"_a)
      .def(
          "threshold",
          [](Batch& self, Address data, int64_t row, int64_t label) { self.threshold = {at<void>(data), row, label}; },
          nb::kw_only(), "data"_a, "row"_a, "label"_a)
      .def(
          "log_weight",
          [](Batch& self, Address data, int64_t row, int64_t label) { self.log_weight = {at<void>(data), row, label}; },
          nb::kw_only(), "data"_a, "row"_a, "label"_a)
      .def(
          "forward",
          [](const Batch& self, int threads, int link, Address saved, Address loss, Address neg, Address pos,
             Address known, Address total, double factor, Address gradient, int gradient_type) -> int64_t {
            Forward out{at<Saved>(saved), at<void>(loss), at<void>(neg),      at<void>(pos),      at<uint8_t>(known),
                        at<void>(total),  factor,         at<void>(gradient), Type(gradient_type)};
            nb::gil_scoped_release release;
            manyhot::forward(blocks_of(self), self, Link(link), threads, out);
            return out.is_wrong ? -1 : out.unknown_rows;
          },
          nb::kw_only(), "threads"_a, "link"_a = 0, "saved"_a = 0, "loss"_a = 0, "neg"_a = 0, "pos"_a = 0,
          "known"_a = 0, "total"_a = 0, "factor"_a = 1.0, "gradient"_a = 0, "gradient_type"_a = 0,
          "Write what is asked for of each row; return how many rows have no known label, -1 where a target is wrong.")
      .def(
          "backward",
          [](const Batch& self, int threads, int link, Address saved, Address by_loss, Address by_neg, Address by_pos,
             int64_t by_loss_row, double factor, Address gradient, int gradient_type) {
            const Backward given{at<Saved>(saved), at<void>(by_loss), at<void>(by_neg),   at<void>(by_pos),
                                 by_loss_row,      factor,            at<void>(gradient), Type(gradient_type)};
            nb::gil_scoped_release release;
            manyhot::backward(blocks_of(self), self, Link(link), threads, given);
          },
          nb::kw_only(), "threads"_a, "link"_a = 0, "saved"_a, "by_loss"_a = 0, "by_neg"_a = 0, "by_pos"_a = 0,
          "by_loss_row"_a = 0, "factor"_a = 1.0, "gradient"_a, "gradient_type"_a,
          "Write the gradient with respect to the logits.");
}
