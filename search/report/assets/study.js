const unique = (values) => [...new Set(values)];
const MODELS = unique(REPORT.curves.map((curve) => curve.model));
const RATES = unique(REPORT.rates.map((rate) => rate.fps));
let model = MODELS[0], fps = RATES[0];
const palette = () => [COLOURS.accent, COLOURS.stock, COLOURS.dense, COLOURS.measured, COLOURS.warn, COLOURS.bad, COLOURS.soft];
const place = (row) => `${row.device} ${row.power_mode}`;
const buttons = (id, values, chosen, choose) => fill(id, values.map((value) => el("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => choose(value) }, String(value))));

/** The points of several fronts that no other is better than. */
function best(curves) {
  const points = curves.flatMap((c) => c.latency_ms.map((ms, i) => [ms, c.map50_95[i], c.energy_mj[i], c.method])).sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  let top = -1;
  return points.filter(([, map]) => map > top && (top = map, true));
}

function drawRates() {
  buttons("rates-pick", RATES, fps, (value) => { fps = value; drawRates(); });
  $("rates-pick").append(el("span", { class: "soft" }, "frames a second"));
  const rows = REPORT.rates.filter((rate) => rate.fps === fps).sort((a, b) => (b.map50_95 ?? -1) - (a.map50_95 ?? -1));
  fill("rates", table(["model", "device", "mode", "mAP50-95", "ms", "sure", "mJ an image", "W", "fastest fps"], rows.map((r) => [r.model, r.device, r.power_mode,
    r.map50_95 === null ? el("span", { class: "bad" }, "out of reach") : number(r.map50_95), number(r.latency_ms, 2), r.map50_95 === null ? "" : el("span", { class: r.sure ? "good" : "warn" }, r.sure ? "yes" : "no"), figure(r.energy_mj), figure(r.watts), number(r.fastest_fps, 0)]),
    (i) => ({ class: i === 0 && rows[i].map50_95 !== null ? "pick" : null })));
}

function drawFronts() {
  buttons("models", MODELS, model, (value) => { model = value; drawFronts(); });
  const places = unique(REPORT.curves.filter((c) => c.model === model).map(place));
  plot("fronts", places.flatMap((name, i) => {
    const curves = REPORT.curves.filter((c) => c.model === model && place(c) === name), points = best(curves), colour = palette()[i % 7];
    return [
      { x: points.map((p) => p[0]), y: points.map((p) => p[1]), text: points.map((p) => `${name}, ${p[3]}<br>mAP50-95 ${number(p[1])}<br>${number(p[0], 2)} ms${p[2] === null ? "" : `, ${figure(p[2])} mJ`} predicted`), hovertemplate: "%{text}<extra></extra>", mode: "lines+markers", name, legendgroup: name, line: { color: colour, width: 2 }, marker: { size: 7, color: colour } },
      { x: curves[0].dense_latency_ms, y: curves[0].dense_map50_95, mode: "lines+markers", showlegend: false, legendgroup: name, line: { color: colour, width: 1.2, dash: "dash" }, marker: { symbol: "square-open", size: 7, color: colour }, hovertemplate: `${name}, uncompressed<br>mAP50-95 %{y:.3f}<br>%{x:.2f} ms predicted<extra></extra>` },
    ];
  }), { height: narrow() ? 400 : 440, xaxis: axis("predicted latency, ms", { rangemode: "tozero" }), yaxis: axis("mAP50-95", { rangemode: "tozero" }), legend: { orientation: "h", y: -.18, yanchor: "top", x: 0, font: { size: 12 } } });
}

function drawMarginals() {
  fill("marginals", table(["model", "device", "mode", "budget", "ms", "mAP50-95", "last tenth brings", "mAP a ms"], REPORT.marginals.map((m) =>
    [m.model, m.device, m.power_mode, m.budget, number(m.budget_ms, 2), number(m.map50_95), signed(m.gained, 4), signed(m.per_ms, 4)])));
}

function drawMethods() {
  const methods = unique(REPORT.methods.map((row) => row.method)), seeds = Math.max(0, ...REPORT.methods.map((row) => row.seeds));
  fill("methods-note", methods.length < 2 ? "One method was searched." : `mAP50-95 of the pick within each budget${seeds > 1 ? `, mean of up to ${seeds} seeds, bars one standard deviation` : "; one seed: differences of the size of the standard errors below mean nothing"}.`);
  const key = (r) => `${r.model}, ${place(r)}, ${r.budget}`, keys = unique(REPORT.methods.map(key));
  plot("methods", methods.map((method, i) => {
    const rows = keys.map((k) => REPORT.methods.find((r) => r.method === method && key(r) === k));
    return { x: rows.map((r) => r ? r.mean : null), y: keys, orientation: "h", mode: "markers", type: "scatter", name: method, marker: { size: 9, color: palette()[i % 7], symbol: ["circle", "diamond", "square", "cross", "x"][i % 5] }, error_x: rows.some((r) => r && r.spread !== null) ? { type: "data", array: rows.map((r) => r?.spread ?? 0), color: palette()[i % 7], thickness: 1 } : undefined, hovertemplate: `${method}<br>%{y}: %{x:.3f}<extra></extra>` };
  }), { height: 90 + 24 * keys.length, xaxis: axis("mAP50-95"), yaxis: axis("", { autorange: "reversed", tickfont: { size: narrow() ? 9 : 12, color: COLOURS.soft } }) });
  fill("methods-table", table(["model", "device", "mode", "budget", "method", "seeds", "mean", "s.d."], REPORT.methods.map((r) => [r.model, r.device, r.power_mode, r.budget, r.method, String(r.seeds), number(r.mean), r.spread === null ? "one seed" : number(r.spread)])));
}

function drawCells() {
  fill("cells", table(["model", "device", "mode", "method", "seed", "budget", "point", "mAP50-95", "to dense", "to stock", "ms", "90 % interval", "measured", "mJ", "MB", "px"], REPORT.cells.map((c) => c.map50_95 === null
    ? [c.model, c.device, c.power_mode, c.method, String(c.seed), c.budget, el("span", { class: "bad", title: c.refused }, "none")]
    : [c.model, c.device, c.power_mode, c.method, String(c.seed), c.budget, el("a", { href: `${c.run}/report.html`, style: "color:inherit" }, c.id), `${number(c.map50_95)}${c.error === null ? "" : ` ± ${number(c.error)}`}`, signed(c.to_dense), signed(c.to_stock), number(c.latency_ms, 2), `${number(c.low_ms, 2)}–${number(c.high_ms, 2)}`, c.measured_ms === null ? "no" : `${number(c.measured_ms, 2)} ms`, figure(c.energy_mj), figure(c.size_mb), String(c.imgsz)])));
  const refused = unique(REPORT.cells.filter((c) => c.refused).map((c) => `${c.model}, ${place(c)}, ${c.budget}: ${c.refused}`));
  if (refused.length) $("cells").append(el("ul", { class: "note" }, refused.map((line) => el("li", {}, line))));
}

function drawEfforts() {
  const sum = (key) => REPORT.efforts.reduce((total, e) => total + e[key], 0);
  fill("effort-note", `${sum("evaluated")} evaluations in ${(sum("seconds") / 60).toFixed(1)} minutes of actors' time; ${sum("reused")} were taken over from another search of the study, ${REPORT.twice} were made twice.`);
  fill("efforts", table(["search", "scored", "evaluated", "taken over", "actors' seconds"], REPORT.efforts.map((e) => [e.run, String(e.scored), String(e.evaluated), String(e.reused), number(e.seconds, 0)])));
}

function draw() {
  fill("chips", [`${REPORT.efforts.length} searches`, `${REPORT.cells.length} combinations`, REPORT.missing ? `${REPORT.missing} searches not done yet` : null, REPORT.created].filter(Boolean).map((fact) => el("span", {}, fact)));
  drawRates();
  drawFronts();
  drawMarginals();
  drawMethods();
  drawCells();
  drawEfforts();
  fill("footer", `Made by paretrim on ${REPORT.created}. comparison.csv beside this page has every row; each point links to the report of its search.`);
}
start(draw);
