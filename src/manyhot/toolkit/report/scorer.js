// Tries a row in the page. The numbers are those of scorer.py, which says what the data are; a test holds both together.
const scorer = (() => {
  const data = document.getElementById("model");
  if (!data) return null;
  const model = JSON.parse(data.textContent);
  const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
  const space = new RegExp(`[${SPACE}]`, "u");
  const LEVELS = 2 ** 15, IDF_STEP = 0.05;

  const decoded = (text, Numbers) => new Numbers(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const wide = model.names.length <= 256 ? Uint8Array : Uint16Array;
  const bias = decoded(model.bias, Float32Array);
  const temperature = decoded(model.temperature, Float64Array), offset = decoded(model.offset, Float64Array);

  const blocks = model.blocks.map((block) => {
    const terms = new Map();
    let before = "";
    block.terms.forEach((coded, i) => {
      before = before.slice(0, parseInt(coded[0], 36)) + coded.slice(1);
      terms.set(before, i);
    });
    const counts = decoded(block.counts, Uint8Array), starts = new Uint32Array(counts.length + 1);
    counts.forEach((count, i) => { starts[i + 1] = starts[i] + count; });
    const [least, most] = block.range;
    const weights = Float64Array.from(decoded(block.levels, Uint16Array), (code) => {
      const size = least * (most / least) ** ((code & (LEVELS - 1)) / (LEVELS - 1));
      return code < LEVELS ? size : -size;
    });
    const idf = Float64Array.from(decoded(block.idf, Uint8Array), (step) => 1 + IDF_STEP * step);
    // Python's \w and \U0001f600.
    const source = block.pattern?.replaceAll("\\w", "[\\p{L}\\p{N}_]").replace(/\\U([0-9a-f]{8})/gi, "\\u{$1}");
    const pattern = source && new RegExp(source, "gu");
    return { ...block, terms, starts, weights, idf, pattern, labels: decoded(block.labels, wide) };
  });
  const numbers = model.numbers && {
    ...model.numbers,
    mean: decoded(model.numbers.mean, Float64Array),
    centre: decoded(model.numbers.centre, Float64Array),
    std: decoded(model.numbers.std, Float64Array),
    weights: decoded(model.numbers.weights, Float32Array),
    missing_weights: decoded(model.numbers.missing_weights, Float32Array),
  };
  const categories = model.categories.map((c) => ({ ...c, weights: decoded(c.weights, Float32Array) }));

  const kernel = model.kernel && {
    gamma: model.kernel.gamma,
    landmarks: decoded(model.kernel.landmarks, Float32Array),
    weights: decoded(model.kernel.weights, Float32Array),
    mean: decoded(model.kernel.mean, Float64Array),
  };

  // Characters (code points) with where each begins.
  const charactersOf = (text, from) => {
    const found = [];
    for (const c of text) {
      found.push({ c, start: from, end: from + c.length });
      from += c.length;
    }
    return found;
  };
  const joined = (some) => some.map(({ c }) => c).join("");

  const wordsOf = (block, text) =>
    [...text.matchAll(block.pattern)].map((m) => ({ term: m[0], start: m.index, end: m.index + m[0].length }));

  // The terms of a text, each as [term, [where it stands]].
  function* termsOf(block, text) {
    const [shortest, longest] = block.lengths;
    if (block.analyzer === "word") {
      const words = wordsOf(block, text);
      for (let i = 0; i + longest <= words.length; i++) {
        const some = words.slice(i, i + longest);
        yield [some.map(({ term }) => term).join(" "), some];
      }
    } else if (block.analyzer === "char_wb") {
      for (const m of text.matchAll(new RegExp(`[^${SPACE}]+`, "gu"))) {
        const end = m.index + m[0].length;
        const padded = [{ c: " ", start: m.index, end: m.index }, ...charactersOf(m[0], m.index), { c: " ", start: end, end }];
        for (let length = shortest; length <= longest; length++) {
          for (let i = 0; i <= Math.max(padded.length - length, 0); i++) {
            const some = padded.slice(i, i + length);
            yield [joined(some), some];
          }
          if (padded.length <= length) break;
        }
      }
    } else {
      // Two spaces or more are one.
      const characters = [];
      let from = 0;
      for (const m of text.matchAll(new RegExp(`[${SPACE}]{2,}`, "gu"))) {
        characters.push(...charactersOf(text.slice(from, m.index), from), { c: " ", start: m.index, end: m.index });
        from = m.index + m[0].length;
      }
      characters.push(...charactersOf(text.slice(from), from));
      for (let length = shortest; length <= Math.min(longest, characters.length); length++) {
        for (let i = 0; i + length <= characters.length; i++) {
          const some = characters.slice(i, i + length);
          yield [joined(some), some];
        }
      }
    }
  }

  const usedBy = (block, text) => {
    const used = new Map();
    for (const [term, places] of termsOf(block, text)) {
      const column = block.terms.get(term);
      if (column === undefined) continue;
      if (!used.has(column)) used.set(column, []);
      used.get(column).push(places);
    }
    let square = 0;
    for (const [column, all] of used) square += ((1 + Math.log(all.length)) * block.idf[column]) ** 2;
    return [...used].map(([column, all]) => ({
      column, all, value: ((1 + Math.log(all.length)) * block.idf[column] * block.weight) / Math.sqrt(square),
    }));
  };

  const decide = (logits) => {
    const [low, high] = model.sizes;
    const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b);
    const above = logits.filter((s) => s > 0).length;
    return new Set(order.slice(0, Math.min(Math.max(above, low), high)));
  };

  const probsOf = (logits) => {
    const scaled = Float64Array.from(logits, (s, i) => s / temperature[i] + offset[i]);
    if (!model.classes) return scaled.map((s) => 1 / (1 + Math.exp(-s)));
    const largest = Math.max(...scaled), sizes = scaled.map((s) => Math.exp(s - largest));
    const total = sizes.reduce((a, b) => a + b, 0);
    return sizes.map((size) => size / total);
  };

  // A row is { text, numbers: [value or null], categories: [position in its values] }.
  function score(row) {
    const logits = Float64Array.from(bias), labels = logits.length;
    const text = (row.text ?? "").toLowerCase();
    const uses = blocks.map((block) => usedBy(block, text));
    blocks.forEach((block, b) => {
      for (const { column, value } of uses[b])
        for (let i = block.starts[column]; i < block.starts[column + 1]; i++) logits[block.labels[i]] += value * block.weights[i];
    });
    const standardised = (row.numbers ?? []).map((given, i) => {
      const number = Math.fround(given === null ? numbers.mean[i] : given);
      return Math.fround((number - numbers.centre[i]) / numbers.std[i]);
    });
    standardised.forEach((x, i) => {
      const given = row.numbers[i];
      for (let label = 0; label < labels; label++) logits[label] += x * numbers.weights[i * labels + label];
      const missing = given === null ? numbers.missing.indexOf(i) : -1;
      if (missing >= 0)
        for (let label = 0; label < labels; label++) logits[label] += numbers.missing_weights[missing * labels + label];
    });
    (row.categories ?? []).forEach((value, i) => {
      for (let label = 0; label < labels; label++) logits[label] += categories[i].weights[value * labels + label];
    });
    if (kernel) {
      const width = standardised.length;
      for (let label = 0; label < labels; label++) logits[label] -= kernel.mean[label];
      for (let i = 0; i * width < kernel.landmarks.length; i++) {
        let square = 0;
        standardised.forEach((x, j) => { square += (x - kernel.landmarks[i * width + j]) ** 2; });
        const near = Math.exp(-kernel.gamma * square);
        for (let label = 0; label < labels; label++) logits[label] += near * kernel.weights[i * labels + label];
      }
    }
    return { text, logits, probs: probsOf(logits), chosen: decide(logits), uses };
  }

  // What each character of a text adds to the score of a label: a term is shared by all characters it stands in.
  function marks({ text, uses }, label) {
    const added = new Float64Array(text.length);
    blocks.forEach((block, b) => {
      for (const { column, all, value } of uses[b]) {
        let weight = 0;
        for (let i = block.starts[column]; i < block.starts[column + 1]; i++) if (block.labels[i] === label) weight = block.weights[i];
        if (!weight) continue;
        for (const places of all) {
          const size = places.reduce((sum, { start, end }) => sum + end - start, 0);
          for (const { start, end } of places)
            for (let i = start; i < end; i++) added[i] += (value * weight) / (all.length * size);
        }
      }
    });
    return added;
  }

  // The words of a text, or its characters where these are read, with whether the page knows them.
  function words(text) {
    const block = blocks.find((b) => b.analyzer === "word" && b.lengths[1] === 1) ?? blocks.find((b) => b.analyzer === "char");
    if (!block) return [];
    const found = block.analyzer === "word"
      ? wordsOf(block, text)
      : charactersOf(text, 0).filter(({ c }) => !space.test(c)).map((p) => ({ ...p, term: p.c }));
    return found.map((word) => ({ ...word, known: block.terms.has(word.term) }));
  }

  return { model, score, marks, words };
})();

if (scorer) {
  const place = document.getElementById("try-it");
  const field = place.querySelector("textarea"), list = place.querySelector("ol");
  const known = place.querySelector(".known"), marked = place.querySelector(".marked"), below = place.querySelector(".below");
  const many = 5;
  let asked = null;
  const made = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text, className: name ?? "" });

  const show = () => {
    const row = {
      text: field?.value,
      numbers: [...place.querySelectorAll("input[data-number]")].map((input) => (input.value === "" ? null : Number(input.value))),
      categories: [...place.querySelectorAll("select")].map((select) => Number(select.value)),
    };
    const found = scorer.score(row);
    const empty = field && !field.value.trim();
    const order = [...found.probs.keys()].sort((a, b) => found.chosen.has(b) - found.chosen.has(a) || found.probs[b] - found.probs[a]);
    const shown = order.slice(0, Math.max(found.chosen.size, many));
    if (!shown.includes(asked)) asked = null;
    const label = asked ?? shown[0];
    list.replaceChildren(...(empty ? [] : shown).map((i) => {
      const item = document.createElement("li"), button = made("button", "", found.chosen.has(i) ? "chosen" : "");
      button.type = "button";
      button.setAttribute("aria-pressed", String(i === label));
      button.dataset.label = i;
      button.dataset.prob = found.probs[i];
      const name = made("bdi", scorer.model.names[i]);
      name.dir = "auto";
      button.append(name, made("span", `${(100 * found.probs[i]).toFixed(1)} %`, "prob"));
      button.style.setProperty("--p", found.probs[i]);
      if (!found.chosen.has(i)) button.append(made("small", "not predicted"));
      button.addEventListener("click", () => { asked = i; show(); list.querySelector("[aria-pressed=true]").focus(); });
      item.append(button);
      return item;
    }));
    below.hidden = empty || ![...found.chosen].some((i) => found.probs[i] < 0.5);
    if (!field) return;
    const words = scorer.words(found.text), different = new Map(words.map((w) => [w.term, w.known]));
    const knew = [...different.values()].filter(Boolean).length;
    const guess = knew < different.size / 2 ? ": what is said of this text is little more than a guess" : "";
    known.textContent = different.size ? `${knew} of ${different.size} ${known.dataset.what} known${guess}` : "";
    // Where small letters are longer than large ones, places are those of the small ones.
    const text = found.text.length === field.value.length ? field.value : found.text;
    const added = scorer.marks(found, label);
    const sums = words.map(({ start, end }) => added.slice(start, end).reduce((a, b) => a + b, 0));
    const most = Math.max(1, ...sums.map(Math.abs));
    const parts = [];
    let from = 0;
    words.forEach(({ start, end, known: isKnown }, i) => {
      parts.push(document.createTextNode(text.slice(from, start)));
      const kind = !isKnown && Math.abs(sums[i]) < 0.005 ? "unknown" : sums[i] >= 0.005 ? "for" : sums[i] <= -0.005 ? "against" : "";
      const mark = made(kind ? "mark" : "span", text.slice(start, end), kind);
      mark.style.setProperty("--w", Math.abs(sums[i]) / most);
      mark.title = kind === "unknown" ? "not known" : `${sums[i] < 0 ? "−" : "+"}${Math.abs(sums[i]).toFixed(2)}`;
      parts.push(mark);
      from = end;
    });
    parts.push(document.createTextNode(text.slice(from)));
    marked.replaceChildren(...parts);
    marked.hidden = place.querySelector(".marks").hidden = empty;
    if (!empty) place.querySelector(".of").textContent = scorer.model.names[label];
  };

  place.hidden = false;
  place.addEventListener("input", show);
  show();
}
