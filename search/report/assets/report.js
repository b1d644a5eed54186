const AXES = {
  latency: { title: "predicted latency", unit: "ms", of: (p) => p.latency_ms },
  energy: { title: "predicted energy", unit: "mJ", of: (p) => p.energy_mj },
  size: { title: "size of the weights", unit: "MB", of: (p) => p.size_mb },
};
const ALL = [...REPORT.points, ...REPORT.dense];
const DENSE = REPORT.dense[0];
const byId = (id) => ALL.find((point) => point.id === id);
const denseAt = (imgsz) => REPORT.dense.find((point) => point.imgsz === imgsz);
const PICKS = new Set(REPORT.verdicts.map((verdict) => verdict.pick).filter(Boolean));
const IMAGES = REPORT.complete ? REPORT.images : REPORT.subset_images;
const FIRST = REPORT.verdicts.find((verdict) => verdict.pick);
let chosen = FIRST?.level_with ?? FIRST?.pick ?? REPORT.points[0]?.id ?? "dense";
let axisName = "latency";

const isDense = (point) => point.to_dense === null || point.digest === denseAt(point.imgsz)?.digest;
const plusMinus = (error) => error === null ? "" : ` ± ${number(error)}`;
const latencyText = (point) => point.measured
  ? `${number(point.measured.latency_ms, 2)} ± ${number(point.measured.spread_ms, 2)} ms measured`
  : `${number(point.latency_ms, 2)} ms predicted`;

/* ---- the answer for each budget ---- */

/** A difference below two standard errors, or this, is not told from none. */
const LEVEL = 0.005;
function gapWords(gap) {
  if (gap === null) return el("span", { class: "soft" }, "nothing uncompressed is as fast");
  const unsure = Math.abs(gap.map50_95) < Math.max(LEVEL, 2 * (gap.error ?? 0));
  const kind = unsure ? "warn" : gap.map50_95 > 0 ? "good" : "bad";
  const word = unsure ? "no clear difference to " : gap.map50_95 > 0 ? "better than " : "worse than ";
  return el("span", {}, el("b", { class: kind }, `${signed(gap.map50_95)}${plusMinus(gap.error)}`), ` mAP, ${word}${gap.name}`);
}

/** Where the time saved against the dense model comes from: the input, then groups of layers. */
function savings(point) {
  const same = denseAt(point.imgsz);
  if (!same) return null;
  const blocks = new Map();
  REPORT.steps.forEach((step, i) => {
    const block = step.name.split(".").slice(0, 2).join(".");
    blocks.set(block, (blocks.get(block) ?? 0) + same.along.latency_ms[i] - point.along.latency_ms[i]);
  });
  return { input: DENSE.latency_ms - same.latency_ms, layers: same.latency_ms - point.latency_ms,
    blocks: [...blocks].filter(([, ms]) => ms > 0.0005).sort((a, b) => b[1] - a[1]) };
}

function paysWords(point) {
  const saved = savings(point);
  if (!saved) return "–";
  const parts = [];
  if (saved.input > 0.0005) parts.push(`the smaller input ${number(saved.input, 2)} ms`);
  for (const [block, ms] of saved.blocks.slice(0, 4)) parts.push(`${block} ${number(ms, 2)} ms`);
  if (!parts.length) return "nothing: this is the dense model";
  const rest = saved.blocks.slice(4).reduce((sum, [, ms]) => sum + ms, 0);
  return `${number(DENSE.latency_ms - point.latency_ms, 2)} ms saved: ${parts.join(", ")}${rest > 0.005 ? `, other layers ${number(rest, 2)} ms` : ""}`;
}

function rangeBar(point, verdict) {
  const top = 1.08 * Math.max(point.high_ms, Math.min(verdict.budget_ms, 2.2 * point.high_ms));
  const at = (ms) => `${100 * Math.min(ms / top, 1)}%`;
  const inside = verdict.budget_ms <= top;
  const now = point.measured ? point.measured.latency_ms : point.latency_ms;
  return [
    el("div", { class: "range", role: "img", "aria-label": `latency ${number(point.low_ms, 2)} to ${number(point.high_ms, 2)} ms, budget ${verdict.budget}` },
      el("i", { style: `left:${at(point.low_ms)};width:calc(${at(point.high_ms)} - ${at(point.low_ms)})` }),
      el("u", { style: `left:${at(now)}` }), inside ? el("s", { style: `left:${at(verdict.budget_ms)}` }) : null),
    el("div", { class: "scale" }, el("span", {}, "0 ms"), el("span", {}, inside ? `budget ${verdict.budget}${verdict.budget.endsWith("ms") ? "" : ` = ${number(verdict.budget_ms, 2)} ms`}` : `budget ${number(verdict.budget_ms, 0)} ms, far to the right`)),
  ];
}

function sureWords(point, verdict) {
  const words = [];
  if (point.measured) words.push(`Measured on ${point.measured.device}.`);
  else {
    words.push(`Not measured: the 90 % interval of the prediction is ${number(point.low_ms, 2)} to ${number(point.high_ms, 2)} ms.`);
    words.push(point.high_ms <= verdict.budget_ms ? "All of it is within the budget." : "Its upper end is beyond the budget: measure it (--measure-on) before you rely on it.");
  }
  words.push(point.error === null ? `mAP is of ${IMAGES} images.` : `mAP ± ${number(point.error)} (one standard error) on ${IMAGES} images, by which points were also chosen.`);
  return words.join(" ");
}

function answer(verdict) {
  const point = verdict.pick && byId(verdict.pick);
  const head = (tag) => el("div", { class: "answer-head" }, el("span", {}, `Best within ${verdict.budget}`), tag);
  if (!point) return el("section", {}, head(el("span", { class: "tag bad" }, "none")), el("p", {}, verdict.sentence));
  const level = verdict.level_with && byId(verdict.level_with);
  const relative = (of) => of(point) === null || !of(DENSE) ? null : share(of(point) / of(DENSE) - 1);
  const energy = relative(AXES.energy.of);
  return el("section", {},
    head(el("span", { class: `tag ${point.measured ? "measured" : "predicted"}` }, point.measured ? "latency measured" : "latency predicted")),
    el("div", { class: "big" }, el("b", {}, point.id), el("span", {}, el("b", {}, number(point.map50_95)), " mAP50-95"),
      el("span", {}, el("b", {}, number(point.measured ? point.measured.latency_ms : point.latency_ms, 2)), " ms")),
    rangeBar(point, verdict),
    el("dl", { class: "facts" },
      el("dt", {}, "Against dense"), el("dd", {}, isDense(point) && point.imgsz === DENSE.imgsz ? "it is the dense model, which meets this budget as it is"
        : [gapWords(point.to_dense), `; latency ${relative(AXES.latency.of)}${energy ? `, energy ${energy}` : ""}, size ${relative(AXES.size.of)}`]),
      el("dt", {}, "Against stock"), el("dd", {}, isDense(point) ? "it is an uncompressed model" : gapWords(point.to_stock)),
      el("dt", {}, "What pays for it"), el("dd", {}, paysWords(point)),
      el("dt", {}, "How sure"), el("dd", {}, sureWords(point, verdict)),
      level ? [el("dt", {}, "Worth a look"), el("dd", {}, el("b", {}, level.id), `: hardly less accurate (${number(level.map50_95)}) at ${number(level.latency_ms, 2)} ms and ${number(100 * level.size_mb / point.size_mb, 0)} % of its size`)] : null),
    el("div", { class: "row", style: "margin:12px 0 0" },
      el("button", { type: "button", onclick: () => choose(point.id, true) }, `Look into ${point.id}`),
      level ? el("button", { type: "button", onclick: () => choose(level.id, true) }, `Look into ${level.id}`) : null));
}

function drawHead() {
  const measured = ALL.some((point) => point.measured);
  const facts = [`${REPORT.device.name}, ${REPORT.device.power_mode}`, `${REPORT.images} validation images`,
    `${REPORT.history.rungs.subset ?? 0} candidates compared`, measured ? "picks measured on a device" : "nothing measured on a device", REPORT.created];
  if (!REPORT.complete) facts.unshift("interrupted: the front so far, on part of the images");
  fill("chips", facts.map((fact) => el("span", {}, fact)));
  fill("answers", REPORT.verdicts.map(answer));
}

/* ---- the front ---- */

function hover(point) {
  const lines = [`<b>${point.id}</b>  ${point.imgsz} px`, `mAP50-95 ${number(point.map50_95)}${plusMinus(point.error)}`,
    `${number(point.latency_ms, 2)} ms predicted (${number(point.low_ms, 2)}–${number(point.high_ms, 2)})`];
  if (point.measured) lines.push(`${latencyText(point)}, ${point.measured.device}`);
  if (point.energy_mj !== null) lines.push(`${figure(point.energy_mj)} mJ predicted`);
  lines.push(`${figure(point.size_mb)} MB, ${figure(point.macs_g)} GMACs`);
  if (point.to_stock) lines.push(`${signed(point.to_stock.map50_95)} against ${point.to_stock.name}`);
  return lines.join("<br>");
}

function drawFront() {
  const kind = AXES[axisName], latency = axisName === "latency";
  const xs = (points) => points.map(kind.of), ys = (points) => points.map((point) => point.map50_95);
  const bars = (points) => latency ? { type: "data", symmetric: false, array: points.map((p) => p.high_ms - p.latency_ms), arrayminus: points.map((p) => p.latency_ms - p.low_ms), color: `${COLOURS.accent}66`, thickness: 1.5, width: 0 } : undefined;
  const errors = (points) => points.some((p) => p.error !== null) ? { type: "data", array: points.map((p) => p.error ?? 0), color: `${COLOURS.accent}66`, thickness: 1.5, width: 0 } : undefined;
  const base = (points) => ({ x: xs(points), y: ys(points), customdata: points.map((p) => p.id), text: points.map(hover), hovertemplate: "%{text}<extra></extra>" });
  const edge = 1.08 * Math.max(...xs(ALL));
  const explored = { latency: REPORT.explored.latency_ms, energy: REPORT.explored.energy_mj, size: REPORT.explored.size_mb }[axisName];
  const beaten = (point) => point.to_stock !== null && point.to_stock.map50_95 <= 0;
  const picks = REPORT.points.filter((point) => PICKS.has(point.id));
  const timed = latency ? ALL.filter((point) => point.measured) : [];
  const traces = [
    { x: explored, y: REPORT.explored.map50_95, mode: "markers", name: `explored (on ${REPORT.subset_images} images)`, marker: { size: 4, color: COLOURS.cloud, opacity: .55 }, hoverinfo: "skip" },
    { ...base(REPORT.dense), mode: "lines+markers+text", name: "dense, input scaled", line: { color: COLOURS.dense, dash: "dash", width: 1.5 }, marker: { symbol: "square", size: 8, color: COLOURS.dense }, text: REPORT.dense.map((p) => `${p.imgsz} px`), textposition: xs(REPORT.dense).map((x) => x > .85 * edge ? "bottom left" : "bottom right"), textfont: { size: 11, color: COLOURS.dense }, hovertext: REPORT.dense.map(hover), hovertemplate: "%{hovertext}<extra></extra>" },
    { ...base(REPORT.points), mode: "lines+markers", name: `front (${IMAGES} images)`, line: { color: COLOURS.accent, width: 2 }, error_x: bars(REPORT.points), error_y: errors(REPORT.points),
      marker: { size: 9, color: REPORT.points.map((p) => beaten(p) ? COLOURS.card : COLOURS.accent), line: { color: COLOURS.accent, width: 2 } } },
  ];
  if (latency && REPORT.stock.length) traces.push({ x: REPORT.stock.map((s) => s.latency_ms), y: REPORT.stock.map((s) => s.map50_95), text: REPORT.stock.map((s) => s.name), mode: "markers+text", textposition: "top left", textfont: { size: 11, color: COLOURS.stock }, name: "stock YOLOv5 (published mAP)", marker: { symbol: "diamond", size: 10, color: COLOURS.stock }, hovertemplate: "%{text}<br>mAP50-95 %{y:.3f} (published, scaled to these images)<br>%{x:.2f} ms predicted<extra></extra>" });
  if (timed.length) traces.push({ ...base(timed), x: timed.map((p) => p.measured.latency_ms), mode: "markers", name: "measured", marker: { symbol: "x", size: 10, color: COLOURS.measured }, error_x: { type: "data", array: timed.map((p) => p.measured.spread_ms), color: COLOURS.measured } });
  if (picks.length) traces.push({ ...base(picks), mode: "markers", name: "pick", marker: { symbol: "star", size: 17, color: COLOURS.warn, line: { color: COLOURS.card, width: 1 } } });
  const shown = latency ? REPORT.verdicts.filter((v) => v.budget_ms <= edge) : [];
  const beyond = latency ? REPORT.verdicts.filter((v) => v.budget_ms > edge) : [];
  plot("front", traces, {
    height: narrow() ? 400 : 470,
    xaxis: axis(`${kind.title}, ${kind.unit}`, { range: [0, edge], tickformat: "~g" }), yaxis: axis("mAP50-95", { rangemode: "tozero" }),
    margin: { l: 48, r: 14, t: 16, b: 48 },
    legend: { orientation: "h", y: -.16, yanchor: "top", x: 0, font: { size: 12 } },
    shapes: shown.map((v) => ({ type: "line", x0: v.budget_ms, x1: v.budget_ms, yref: "paper", y0: 0, y1: 1, line: { color: COLOURS.bad, width: 1.2, dash: "dot" } })),
    annotations: [...shown.map((v) => ({ x: v.budget_ms, yref: "paper", y: 1, text: v.budget, showarrow: false, xanchor: "left", xshift: 3, font: { size: 12, color: COLOURS.bad } })),
      ...(beyond.length ? [{ xref: "paper", x: 1, yref: "paper", y: 1, xanchor: "right", text: `${beyond.map((v) => v.budget).join(", ")} →`, showarrow: false, font: { size: 12, color: COLOURS.bad } }] : [])],
  });
  $("front").removeAllListeners?.("plotly_click");
  $("front").on("plotly_click", (event) => event.points[0].customdata && choose(event.points[0].customdata));
  const hollow = REPORT.points.some(beaten);
  fill("front-note", `Horizontal bars are 90 % intervals of the predictions${timed.length ? ", crosses what a device measured" : ""}; vertical bars one standard error of mAP.${hollow ? " Hollow points are no better than an uncompressed model that is as fast." : ""} Explored points were scored on few images and may lie above the front. Click a point to look into it.`);
  fill("axes", Object.keys(AXES).filter((name) => ALL.every((p) => AXES[name].of(p) !== null)).map((name) =>
    el("button", { type: "button", "aria-pressed": String(name === axisName), onclick: () => { axisName = name; drawFront(); } }, name)));
}

/* ---- one point ---- */

const bitsColour = (bits) => bits >= 32 ? COLOURS.soft : bits >= 16 ? COLOURS.accent : bits >= 8 ? COLOURS.stock : COLOURS.measured;

function drawAlong(point) {
  const same = denseAt(point.imgsz) ?? DENSE, index = REPORT.steps.map((_, i) => i);
  const name = (i) => `${REPORT.steps[i].name} (${REPORT.steps[i].kind})`;
  const sharesOf = point.along.latency_ms.map((ms) => 100 * ms / point.latency_ms);
  plot("along-latency", [
    { type: "bar", x: index, y: same.along.latency_ms, name: `dense at ${same.imgsz} px`, marker: { color: COLOURS.bar }, hovertemplate: index.map((i) => `${name(i)}<br>dense ${figure(same.along.latency_ms[i])} ms<extra></extra>`) },
    { type: "bar", x: index, y: point.along.latency_ms, name: point.id, width: .55, marker: { color: COLOURS.accent }, hovertemplate: index.map((i) => `${name(i)}<br>${figure(point.along.latency_ms[i])} ms, ${sharesOf[i].toFixed(1)} % of all<br>dense ${figure(same.along.latency_ms[i])} ms<extra></extra>`) },
  ], { barmode: "overlay", bargap: .12, height: 260, xaxis: axis("layers and other ops, in execution order", { showticklabels: false, showgrid: false }), yaxis: axis("ms") });
  const convs = index.filter((i) => REPORT.steps[i].kind === "conv");
  const kept = convs.map((i) => 100 * point.along.channels[i] / REPORT.steps[i].channels);
  const widths = [...new Set(convs.map((i) => point.along.weight_bits[i]))].sort((a, b) => b - a);
  plot("along-keep", widths.map((bits) => {
    const rows = convs.map((i, n) => [i, n]).filter(([i]) => point.along.weight_bits[i] === bits);
    return { type: "bar", x: rows.map(([, n]) => n), y: rows.map(([, n]) => kept[n]), name: `${bits}-bit weights`, marker: { color: bitsColour(bits) },
      hovertemplate: rows.map(([i, n]) => `${REPORT.steps[i].name}<br>${point.along.channels[i]} of ${REPORT.steps[i].channels} channels (${kept[n].toFixed(0)} %)<br>W${bits}A${point.along.act_bits[i]}${point.along.patterns[i] === "dense" ? "" : `, ${point.along.patterns[i]}`}<extra></extra>`) };
  }), { barmode: "overlay", bargap: .12, height: 220, showlegend: true, xaxis: axis("convolutions, in execution order", { showticklabels: false, showgrid: false }), yaxis: axis("% kept", { range: [0, 104] }) });
}

function drawMoves(point) {
  const variable = (move) => REPORT.variables[move.variable];
  const text = (move) => `${variable(move).name.replace("keep:", "").replace("bits:", "")}: ${variable(move).options[point.level[move.variable]]} → ${variable(move).options[move.level]}`;
  const known = point.moves.some((move) => move.map50_95 !== null);
  const LEAST = 5e-4; // of mAP: below it estimates say nothing, and the larger saving comes first
  const worth = (move) => known ? Math.max(-move.map50_95, LEAST) / Math.max(-move.latency_ms, 1e-9) : move.latency_ms;
  const save = point.moves.filter((m) => m.latency_ms < -1e-4 && (!known || m.map50_95 !== null)).sort((a, b) => worth(a) - worth(b)).slice(0, 7);
  const spend = point.moves.filter((m) => m.latency_ms > 1e-4 && m.map50_95 > 0).sort((a, b) => b.map50_95 / b.latency_ms - a.map50_95 / a.latency_ms).slice(0, 7);
  const energy = point.energy_mj !== null;
  const rows = (moves) => moves.length ? table(["move", "mAP, est.", "ms", ...(energy ? ["mJ"] : []), "MB"],
    moves.map((m) => [text(m), m.map50_95 === null ? "–" : signed(m.map50_95), signed(m.latency_ms), ...(energy ? [signed(m.energy_mj, 2)] : []), signed(m.size_mb, 2)]))
    : el("p", { class: "soft" }, point.level.length ? "No such move." : "This point lies outside the search space.");
  fill("moves-note", known ? "One variable, one level further; the cheapest in accuracy first. Costs are predicted; the change of mAP is an estimate from moving each variable of the dense model alone." : "One variable, one level further. Costs are predicted; this method did not probe single variables, so the change of mAP is unknown.");
  fill("moves-save", rows(save));
  fill("moves-spend", rows(spend));
}

function boxes(example, found, colour, dashed) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("viewBox", `0 0 ${example.width} ${example.height}`);
  const add = (tag, attributes, text) => { const node = document.createElementNS(ns, tag); for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v); if (text) node.textContent = text; svg.append(node); };
  add("image", { href: `data:image/jpeg;base64,${example.jpeg}`, width: example.width, height: example.height });
  const rect = ([x1, y1, x2, y2], more) => add("rect", { x: x1 * example.width, y: y1 * example.height, width: (x2 - x1) * example.width, height: (y2 - y1) * example.height, fill: "none", ...more });
  for (const box of example.truth) rect(box, { stroke: "#ffffff", "stroke-width": 1.4, "stroke-dasharray": "4 3", opacity: .9 });
  const size = Math.max(9, example.width / 30);
  for (const box of found) {
    rect(box, { stroke: colour, "stroke-width": 2 });
    const y = Math.max(box[1] * example.height - 3, size);
    add("text", { x: box[0] * example.width + 1, y, fill: colour, "font-size": size, "font-weight": 700, stroke: "#000000", "stroke-width": 2.5, "paint-order": "stroke" }, `${REPORT.classes[box[5]]} ${box[4].toFixed(2)}`);
  }
  return svg;
}

function drawDetails(point) {
  const ours = point.details, theirs = DENSE.details;
  $("details").hidden = !ours || !theirs;
  if (!ours || !theirs) return;
  const dense = new Map(theirs.per_class), all = ours.per_class.map(([name, ap]) => [name, ap, dense.get(name) ?? 0]);
  all.sort((a, b) => (a[1] - a[2]) - (b[1] - b[2]));
  const shown = all.length > 24 ? [...all.slice(0, 16), ...all.slice(-8)] : all;
  const names = shown.map(([name]) => name);
  plot("classes", [
    { type: "bar", orientation: "h", y: names, x: shown.map((row) => row[2]), name: "dense", marker: { color: COLOURS.bar }, hovertemplate: "%{y}: dense %{x:.3f}<extra></extra>" },
    { type: "bar", orientation: "h", y: names, x: shown.map((row) => row[1]), name: point.id, marker: { color: COLOURS.accent }, hovertemplate: shown.map((row) => `${row[0]}: ${number(row[1])} (${signed(row[1] - row[2])})<extra></extra>`) },
  ], { height: 84 + 30 * shown.length, bargap: .3, xaxis: axis("average precision (IoU .50 to .95)", { range: [0, 1] }), yaxis: axis("", { autorange: "reversed", showgrid: false }) });
  fill("classes-note", shown.length < all.length ? "The classes that lose most, and the eight that lose least or gain." : "The class that loses most first.");
  fill("examples-note", `The first ${REPORT.examples.length} images of the search's own order, not chosen by result. White, dashed: the truth. Detections from a score of 0.25 on; left dense, right ${point.id}.`);
  fill("examples", REPORT.examples.map((example, i) => el("div", { class: "pair" },
    el("figure", {}, boxes(example, theirs.seen[i] ?? [], "#7ee081"), el("figcaption", {}, `dense: ${(theirs.seen[i] ?? []).length} found, ${example.truth.length} there`)),
    el("figure", {}, boxes(example, ours.seen[i] ?? [], "#6db8ff"), el("figcaption", {}, `${point.id}: ${(ours.seen[i] ?? []).length} found`)))));
}

function drawPoint() {
  const point = byId(chosen);
  $("point").value = chosen;
  const relative = (of) => of(point) === null || !of(DENSE) || point === DENSE ? "" : ` (${share(of(point) / of(DENSE) - 1)})`;
  fill("point-about", `${point.imgsz} px${point.method === "dense" ? "" : `, proposed by ${point.method}`}${point.meets.length ? `, meets ${point.meets.join(", ")}` : ""}`);
  const detail = (key) => point.details && point.details[key] !== null ? number(point.details[key]) : null;
  fill("point-tiles",
    tile(number(point.map50_95), `mAP50-95${plusMinus(point.error)}`), tile(number(point.map50), "mAP50"),
    point.exported === null ? null : tile(number(point.exported), "mAP50-95 of the ONNX file"),
    detail("small") && tile(detail("small"), "mAP50-95, small objects"), detail("medium") && tile(detail("medium"), "medium objects"), detail("large") && tile(detail("large"), "large objects"),
    tile(`${number(point.latency_ms, 2)} ms`, `predicted${relative(AXES.latency.of)}, ${number(point.low_ms, 2)}–${number(point.high_ms, 2)}`),
    point.measured ? tile(`${number(point.measured.latency_ms, 2)} ms`, `measured, ${point.measured.device}`) : tile("–", "not measured"),
    point.energy_mj === null ? null : tile(`${figure(point.energy_mj)} mJ`, `predicted${relative(AXES.energy.of)}`),
    tile(`${figure(point.size_mb)} MB`, `weights${relative(AXES.size.of)}`), tile(`${figure(point.macs_g)}`, `GMACs${relative((p) => p.macs_g)}`), tile(`${figure(point.params_m)}`, `million parameters${relative((p) => p.params_m)}`));
  const changed = REPORT.steps.filter((step, i) => step.kind === "conv" && (point.along.channels[i] < step.channels || point.along.weight_bits[i] < DENSE.along.weight_bits[i] || point.along.patterns[i] !== "dense")).length;
  const convs = REPORT.steps.filter((step) => step.kind === "conv").length;
  fill("point-saved", point === DENSE ? "The dense model itself." : `${changed} of ${convs} convolutions changed. ${paysWords(point)}.`);
  drawAlong(point);
  drawMoves(point);
  drawDetails(point);
  drawSensitivity(point);
  drawTable();
}

function choose(id, scroll = false) {
  chosen = id;
  drawPoint();
  if (scroll) $("point").closest("section").scrollIntoView({ behavior: "smooth" });
}

/* ---- the rest ---- */

function drawSensitivity(point) {
  const families = [...new Set(REPORT.variables.map((v) => v.name.split(":")[0]))].filter((f) => f !== "imgsz");
  const probed = families.filter((f) => REPORT.variables.some((v) => v.name.startsWith(`${f}:`) && v.losses));
  fill("sensitivity-note", probed.length
    ? `Each variable of the dense model moved alone: the share of (squared) agreement with the dense model's detections that is lost, measured on few images without labels. White marks: where ${chosen} is.`
    : "This method did not move single variables, so there is no map.");
  if ($("sensitivity").dataset.families !== probed.join())
    fill("sensitivity", probed.map((f) => [el("h3", {}, { keep: "Channels kept", bits: "Bits", pattern: "Sparsity pattern", depth: "Residual blocks" }[f] ?? f), el("div", { class: "plot", id: `map-${f}` })]));
  $("sensitivity").dataset.families = probed.join();
  for (const family of probed) {
    const rows = REPORT.variables.map((v, i) => [v, i]).filter(([v]) => v.name.startsWith(`${family}:`));
    const levels = Math.max(...rows.map(([v]) => v.options.length));
    const z = Array.from({ length: levels - 1 }, (_, l) => rows.map(([v]) => v.losses && l + 1 < v.options.length ? 100 * v.losses[l + 1] : null));
    const text = Array.from({ length: levels - 1 }, (_, l) => rows.map(([v]) => l + 1 < v.options.length ? `${v.name}<br>${v.options[0]} → ${v.options[l + 1]}` : ""));
    const here = rows.map(([, i], n) => [n, point.level[i]]).filter(([, level]) => level > 0);
    plot(`map-${family}`, [
      { type: "heatmap", z, text, x: rows.map((_, n) => n), y: z.map((_, l) => l + 1), colorscale: [[0, COLOURS.track], [.25, COLOURS.accent], [1, COLOURS.bad]], zmin: 0, zmax: 100, xgap: 1, ygap: 1, hoverongaps: false,
        colorbar: { thickness: 10, len: 1, ticksuffix: " %", tickfont: { size: 11, color: COLOURS.soft }, outlinewidth: 0 }, hovertemplate: "%{text}<br>loses %{z:.1f} % alone<extra></extra>" },
      { x: here.map(([n]) => n), y: here.map(([, level]) => level), mode: "markers", marker: { symbol: "diamond", size: 6, color: "#ffffff", line: { color: "#000000", width: 1 } }, hoverinfo: "skip", showlegend: false },
    ], { height: 70 + Math.max(60, 24 * (levels - 1)), margin: { l: 44, r: 8, t: 6, b: 34 }, xaxis: axis(family === "keep" ? "channel groups, in execution order" : "layers, in execution order", { showticklabels: false, showgrid: false, zeroline: false }), yaxis: axis("level", { dtick: 1, showgrid: false, zeroline: false, autorange: "reversed" }) });
  }
}

function drawHistory() {
  const h = REPORT.history, failed = Object.values(h.failures).reduce((a, b) => a + b, 0);
  const minutes = h.elapsed_s / 60;
  fill("history-tiles",
    tile(String(h.rungs.proxy), "probes on few images, no labels"), tile(String(h.rungs.subset), `scored on ${REPORT.subset_images} images`), tile(String(h.rungs.full), `scored on all ${REPORT.images} images`),
    tile(String(h.promoted.subset), "promoted to all images"), tile(String(h.reused), "taken over from other runs"), tile(String(failed), "failed", failed ? "bad" : ""),
    tile(`${minutes.toFixed(1)} min`, "first to last evaluation"), tile(String(Object.keys(h.workers).length), Object.keys(h.workers).length === 1 ? "actor" : "actors"));
  const steps = { line: { shape: "hv", width: 2 }, mode: "lines" };
  plot("history-volume", [{ ...steps, x: h.minutes, y: h.hypervolume, line: { ...steps.line, color: COLOURS.accent }, hovertemplate: "%{x:.1f} min: %{y:.4f}<extra></extra>" }],
    { height: 240, showlegend: false, xaxis: axis("minutes"), yaxis: axis("share of the box", { rangemode: "tozero" }) });
  const palette = [COLOURS.accent, COLOURS.stock, COLOURS.dense, COLOURS.measured, COLOURS.warn];
  plot("history-best", Object.entries(h.best).map(([budget, values], i) => ({ ...steps, x: h.minutes, y: values, name: budget, line: { ...steps.line, color: palette[i % palette.length] }, hovertemplate: `${budget}: %{y:.3f}<extra></extra>` })),
    { height: 240, showlegend: true, xaxis: axis("minutes"), yaxis: axis(`mAP50-95 on ${REPORT.subset_images} images`) });
  const seconds = Object.entries(h.seconds).map(([rung, s]) => `${rung} ${s.toFixed(0)} s`).join(", ");
  const kinds = Object.entries(h.failures).map(([kind, count]) => `${kind} ${count}`).join(", ");
  fill("history-note", `Time spent evaluating, all actors together: ${seconds}.${kinds ? ` Failures: ${kinds}.` : ""} Hypervolume is the part of the box between no accuracy and the dense model's costs that the explored points cover, as scored on ${REPORT.subset_images} images.`);
}

function drawDevice() {
  const d = REPORT.device, percent = (value) => value === null ? "–" : `${value.toFixed(1)} %`;
  fill("device-note", `${d.description} The interval of a prediction holds 90 % of the errors of networks left out of the fit: a factor of ${Object.entries(d.intervals).map(([bits, f]) => `${f.toFixed(2)} at ${bits} bits`).join(", ")}.${d.transferred.length ? ` No measurement at ${d.transferred.join(" and ")} bits was fitted: transferred from another board.` : ""} Energy is that of: ${d.measured_at}${d.energy_error === null ? "" : `, error on the fitted rows ${percent(d.energy_error)}`}.`);
  const headings = ["precision", "measurements", "networks", "error, fitted", "error, left out", "error, never fitted"];
  fill("device-table", d.rows.length ? table(headings, d.rows.map((r) => [r.precision, String(r.rows), r.networks === null ? "–" : String(r.networks), percent(r.fitted), percent(r.left_out), percent(r.held_out)])) : el("p", { class: "soft" }, "This profile says nothing about its errors."));
  const names = Object.keys(d.networks).sort((a, b) => d.networks[a] - d.networks[b]);
  $("device-networks").hidden = !names.length;
  if (names.length) {
    const own = d.intervals[DENSE.along.weight_bits.find((bits) => bits > 0)] ?? Object.values(d.intervals)[0];
    plot("device-networks", [{ x: names.map((_, i) => i), y: names.map((n) => d.networks[n]), text: names, mode: "markers", marker: { size: 7, color: COLOURS.accent }, hovertemplate: "%{text}<br>predicted / measured %{y:.3f}<extra></extra>" }],
      { height: 250, xaxis: axis("networks that were fitted, sorted", { showticklabels: false, showgrid: false, zeroline: false }), yaxis: axis("predicted / measured", { type: "log", tickvals: [.5, .6, .7, .8, .9, 1, 1.1, 1.2, 1.4, 1.6, 2] }),
        shapes: [{ type: "rect", xref: "paper", x0: 0, x1: 1, y0: 1 / own, y1: own, fillcolor: COLOURS.accent, opacity: .1, line: { width: 0 } }, { type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { color: COLOURS.soft, width: 1 } }] });
  }
  fill("device-sources", `Points: means by network of what was fitted; band: the 90 % interval. "Left out": each network predicted by a fit that did not see it.${d.sources.length ? ` Sources: ${d.sources.join("; ")}.` : ""}`);
}

function drawTable() {
  const energy = ALL.every((p) => p.energy_mj !== null), measured = ALL.some((p) => p.measured);
  const rows = [...REPORT.points, ...REPORT.dense];
  const heads = ["id", "mAP50-95", "mAP50", "file", "ms", "90 % interval", ...(measured ? ["measured ms"] : []), ...(energy ? ["mJ"] : []), "MB", "GMACs", "px", "against dense", "against stock", "meets"];
  fill("table", table(heads, rows.map((p) => [p.id, number(p.map50_95), number(p.map50), number(p.exported), number(p.latency_ms, 2), `${number(p.low_ms, 2)}–${number(p.high_ms, 2)}`,
    ...(measured ? [p.measured ? number(p.measured.latency_ms, 2) : ""] : []), ...(energy ? [figure(p.energy_mj)] : []), figure(p.size_mb), figure(p.macs_g), String(p.imgsz), p.to_dense ? `${signed(p.to_dense.map50_95)}${plusMinus(p.to_dense.error)}` : "", p.to_stock ? `${signed(p.to_stock.map50_95)}${plusMinus(p.to_stock.error)}` : "", p.meets.join(" ")]),
    (i) => ({ "data-id": rows[i].id, class: [PICKS.has(rows[i].id) ? "pick" : "", rows[i].id === chosen ? "chosen" : "", rows[i].to_stock && rows[i].to_stock.map50_95 <= 0 ? "dominated" : ""].join(" ").trim() || null, onclick: () => choose(rows[i].id, true) })));
  fill("table-note", `mAP was measured on the validation images, by which the points were also chosen: a test set of your own will show a little less. "file" is the exported ONNX file's own. "ms" and the interval are predicted. Grey: no better than an uncompressed model that is as fast. ± is one standard error of the difference on these images.`);
}

function drawSettings() {
  const flat = (values, prefix = "") => Object.entries(values).flatMap(([key, value]) => value !== null && typeof value === "object" && !Array.isArray(value) ? flat(value, `${prefix}${key} `) : [[prefix + key, Array.isArray(value) ? value.join(", ") : String(value)]]);
  fill("settings", [...flat(REPORT.settings), ...flat(REPORT.resolved)].map(([key, value]) => el("div", {}, el("dt", {}, key.replaceAll("_", " ")), el("dd", {}, value))));
  fill("footer", `Made by paretrim on ${REPORT.created}. The journal beside this page has every evaluation.`);
}

function draw() {
  drawHead();
  drawFront();
  drawPoint();
  drawHistory();
  drawDevice();
  drawSettings();
}

$("point").append(...REPORT.points.map((p) => el("option", { value: p.id }, `${p.id}  ${number(p.map50_95)}  ${number(p.latency_ms, 2)} ms`)), ...REPORT.dense.map((p) => el("option", { value: p.id }, `dense, ${p.imgsz} px`)));
$("point").addEventListener("change", (event) => choose(event.target.value));
const step = (by) => { const at = ALL.findIndex((p) => p.id === chosen); choose(ALL[(at + by + ALL.length) % ALL.length].id); };
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
start(draw);
