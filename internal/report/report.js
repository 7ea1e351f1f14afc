"use strict";
// Zoom in time and values under the pointer. Without it nothing is missing: the pictures
// are there as they are printed. The table and the rates are drawn by uPlot in place of
// their picture; of the others a part of the picture is shown.
(() => {
  const data = JSON.parse(document.getElementById("series")?.textContent ?? "null");
  if (!data) return;
  const whole = [data.from, data.from + data.n * data.per * data.step];
  const least = 16 * data.step; // that is shown
  const charts = [];
  let view = whole, past = [], hint;

  // Words.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const two = (n) => String(n).padStart(2, "0");
  const count = (n) => Math.round(n).toLocaleString("en-US");
  const rate = (r) => (r < 9.95 && r !== Math.trunc(r) ? r.toFixed(1) : count(r));
  const date = (t) => new Date(t * 1000);
  const utc = (t, to) => date(t).toISOString().replace("T", " ").slice(to - 23, to); // to: 19 are seconds, 23 milliseconds
  const digits = () => (view[1] - view[0] < 100 * 600 ? 23 : 19);
  const stamp = (t) => date(t).toISOString().replace("T", " ").slice(0, digits()) + " UTC";
  const here = (t) => ((d) => two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds()) + " " + zone)(date(t));
  const long = (s) => (s < 1 ? +(s * 1000).toPrecision(3) + " ms" : s < 120 ? +s.toPrecision(3) + " s" : s < 7200 ? +(s / 60).toPrecision(3) + " min" : +(s / 3600).toPrecision(3) + " h");
  const short = (n) => {
    let unit = "";
    for (const u of ["k", "M", "G", "T"]) {
      if (n < 1000 || (n < 10000 && n % 100)) break;
      n /= 1000;
      unit = u;
    }
    return (unit ? +n.toFixed(1) : n < 1 ? n : count(n)) + unit;
  };

  // Round times of an axis.
  const steps = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200]
    .concat([1, 2, 7, 14, 30, 90, 365, 3650].map((d) => d * 86400));
  const ticks = () => {
    const [a, b] = view, step = steps.find((s) => (b - a) / s < 8) ?? 3650 * 86400, out = [];
    for (let i = Math.ceil(a / step); i * step < b; i++) out.push(i * step);
    const name = (t) => {
      const s = new Date(Math.round(t * 1000)).toISOString();
      if (step >= 86400) return s.slice(0, 10);
      if (b - a > 86400) return s.slice(5, 10) + " " + s.slice(11, 16);
      return s.slice(11, step >= 60 ? 16 : step >= 1 ? 19 : 23);
    };
    return [out, out.map(name)];
  };

  // Columns of twice the width, until no more than a picture has are shown.
  const sum = (a, b) => a + b, most = Math.max;
  const pairs = (all, of) => Array.from({length: all.length / 2}, (_, i) => of(all[2 * i], all[2 * i + 1]));
  const unpack = (changes, n) => {
    const out = new Array(n).fill(0);
    changes.forEach(([i, v], k) => out.fill(v, i, changes[k + 1]?.[0]));
    return out;
  };
  const levels = [{step: data.step, rates: data.rates, table: data.occupancy}];
  if (data.occupancy?.max) data.occupancy.max = unpack(data.occupancy.max, data.n * data.per);
  for (let per = data.per; per > 1; per /= 2) {
    const l = levels.at(-1), t = l.table;
    const next = {step: 2 * l.step, rates: {new: pairs(l.rates.new, sum), peak: pairs(l.rates.peak, most), lost: l.rates.lost && pairs(l.rates.lost, sum)}};
    if (t) {
      // The classes of a column are those of its fullest moment.
      const all = t.classes.reduce((s, c) => s.map((n, i) => n + c.n[i]), new Array(l.rates.new.length).fill(0));
      const fuller = all.map((n, i) => (i % 2 ? i : n > all[i + 1] ? i : i + 1)).filter((_, i) => i % 2 === 0);
      next.table = {classes: t.classes.map((c) => ({...c, n: fuller.map((i) => c.n[i])})), kernel: t.kernel && pairs(t.kernel, most), max: t.max && pairs(t.max, (a, b) => b || a)};
    }
    levels.push(next);
  }
  const level = () => levels.find((l) => (view[1] - view[0]) / l.step <= 640) ?? levels.at(-1);
  const columnAt = (t, l) => Math.min(l.rates.new.length - 1, Math.max(0, Math.floor((t - data.from) / l.step)));

  // Where all of them look.
  const show = () => {
    for (const c of charts) c.show();
    hint.show();
  };
  const zoom = (a, b) => {
    const w = Math.min(whole[1] - whole[0], Math.max(least, b - a));
    a = Math.min(whole[1] - w, Math.max(whole[0], (a + b - w) / 2));
    if (a === view[0] && a + w === view[1]) return;
    past.push(view);
    view = w >= whole[1] - whole[0] ? whole : [a, a + w];
    show();
  };
  const back = () => {
    view = past.pop() ?? whole;
    show();
  };
  const all = () => {
    past = [];
    view = whole;
    show();
  };
  const scale = (by, at = (view[0] + view[1]) / 2) => zoom(at - (at - view[0]) * by, at + (view[1] - at) * by);
  const pan = (by) => {
    const w = view[1] - view[0], a = Math.min(whole[1] - w, Math.max(whole[0], view[0] + by * w));
    zoom(a, a + w);
  };
  const point = (t, by) => {
    for (const c of charts) c.cross(t, c === by);
  };

  const make = (name, attributes, parent, text) => {
    const svg = parent.namespaceURI.endsWith("svg");
    const e = svg ? document.createElementNS(parent.namespaceURI, name) : document.createElement(name);
    for (const k in attributes) e.setAttribute(k, attributes[k]);
    if (text) e.textContent = text;
    parent.append(e);
    return e;
  };

  // A chart by its pointer area; values says what is at a time.
  const chart = (over, values) => {
    const svg = over.closest("svg"), draw = over.closest(".draw"), box = svg.viewBox.baseVal;
    const area = {x: +over.getAttribute("x"), y: +over.getAttribute("y"), w: +over.getAttribute("width"), h: +over.getAttribute("height"), W: box.width, H: box.height};
    const out = document.createElement("p"), live = document.createElement("p");
    out.className = "readout";
    live.className = "unseen";
    live.setAttribute("aria-live", "polite");
    draw.before(out, live);
    draw.tabIndex = 0;
    draw.setAttribute("role", "group");
    draw.setAttribute("aria-label", svg.querySelector("title").textContent + ". Arrow keys move along, plus and minus zoom, Escape shows all.");
    let at = null, keyed = false;
    const say = (t) => {
      at = t;
      out.textContent = t === null ? "" : stamp(t) + " · " + here(t) + (values ? " · " + values(t) : "");
    };
    const c = {svg, draw, area, say, keyed: () => keyed};
    draw.addEventListener("keydown", (e) => {
      const step = level().step, is = at ?? (view[0] + view[1]) / 2;
      const to = {ArrowLeft: -step, ArrowRight: step}[e.key];
      if (e.ctrlKey || e.altKey || e.metaKey) return;
      if (to && e.shiftKey) pan(Math.sign(to) / 4);
      else if (to) {
        keyed = true;
        point(Math.min(view[1] - step / 2, Math.max(view[0], is + to)), c);
        live.textContent = out.textContent;
      } else if (e.key === "+" || e.key === "=") scale(1 / 2, is);
      else if (e.key === "-") scale(2, is);
      else if (e.key === "Backspace") back();
      else if (e.key === "Escape") all();
      else return;
      e.preventDefault();
    });
    draw.addEventListener("blur", () => {
      if (keyed) point(null, c);
      keyed = false;
    });
    charts.push(c);
    return c;
  };

  // A picture, of which a part is shown.
  const picture = (over) => {
    // Of a map also what is in the row under the pointer, or with the keyboard in the fullest.
    const map = data.maps[over.closest("section").id];
    let row = null;
    const values = map && ((t) => {
      const width = data.step * data.per, i = Math.min(data.n - 1, Math.floor((t - data.from) / width));
      const r = row ?? map.n.reduce((best, n, k) => (n[i] > map.n[best][i] ? k : best), 0);
      return map.names[r] + ": " + count(map.n[r][i]) + " in " + long(width);
    });
    const c = chart(over, values), {svg, area} = c;
    const inside = [...svg.querySelectorAll("svg.in")], texts = [...svg.querySelectorAll("text.at")].map((e) => [e, +e.getAttribute("x"), +e.dataset.from, +e.dataset.to]);
    const theirs = [...svg.querySelectorAll(".ticks")], ours = make("g", {}, svg);
    theirs[0].after(ours); // under all else
    const cross = make("line", {class: "cross", y1: area.y, y2: area.y + area.h}, svg), select = make("rect", {class: "select", y: area.y, height: area.h, width: 0}, svg);
    const place = (t) => area.x + area.w * (t - view[0]) / (view[1] - view[0]);
    const time = (x) => view[0] + (view[1] - view[0]) * Math.min(1, Math.max(0, (x - area.x) / area.w));
    const pointer = (e) => new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const from = (t) => area.x + area.w * (t - whole[0]) / (whole[1] - whole[0]);
    const look = (printed) => {
      const [a, b] = printed ? whole : view, x = from(a), w = from(b) - x, is = a === whole[0] && b === whole[1];
      for (const e of inside) e.setAttribute("viewBox", `${x} 0 ${w} ${e.getAttribute("height")}`);
      for (const [e, at, first, last] of texts) {
        e.setAttribute("x", is ? at : Math.min(area.x + area.w, Math.max(area.x, area.x + (at - x) * area.w / w)));
        e.classList.toggle("off", last < x || first > x + w);
      }
      for (const e of theirs) e.classList.toggle("off", !is);
      ours.replaceChildren();
      if (is) return;
      const [at, names] = ticks();
      make("path", {class: "grid", d: at.map((t) => `M${place(t).toFixed(1)} ${area.y}v${area.h}`).join("")}, ours);
      at.forEach((t, i) => place(t) > area.x + 24 && place(t) < area.x + area.w - 16 && make("text", {class: "mid", x: place(t), y: area.H - 5}, ours, names[i]));
    };
    c.show = () => look(false);
    c.printed = () => look(true);
    c.cross = (t, mine) => {
      const on = t !== null && t >= view[0] && t <= view[1];
      cross.classList.toggle("off", !on);
      if (on) for (const k of ["x1", "x2"]) cross.setAttribute(k, place(t));
      c.say(on && mine ? t : null);
    };
    c.cross(null);
    let down = null;
    const selected = (x) => {
      const low = Math.min(down, x);
      select.setAttribute("x", low);
      select.setAttribute("width", Math.max(down, x) - low);
    };
    const inArea = (x) => Math.min(area.x + area.w, Math.max(area.x, x));
    over.addEventListener("pointerdown", (e) => {
      if (e.button !== 0 || e.pointerType === "touch") return;
      down = inArea(pointer(e).x);
      over.setPointerCapture(e.pointerId);
      e.preventDefault();
    });
    over.addEventListener("pointermove", (e) => {
      const at = pointer(e), x = inArea(at.x);
      if (map) row = Math.min(map.n.length - 1, Math.max(0, Math.floor((at.y - area.y) / map.h)));
      if (down !== null) selected(x);
      point(time(x), c);
    });
    const up = (e) => {
      if (down === null) return;
      const x = inArea(pointer(e).x), a = time(Math.min(down, x)), b = time(Math.max(down, x)), far = Math.abs(x - down) > 4;
      select.setAttribute("width", 0);
      down = null;
      if (far && e.type === "pointerup") zoom(a, b);
    };
    over.addEventListener("pointerup", up);
    over.addEventListener("pointercancel", up);
    over.addEventListener("pointerleave", () => {
      row = null;
      point(null, c);
    });
    over.addEventListener("dblclick", back);
  };

  const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  // A chart of uPlot where the picture is, as large and with the same axes. make says
  // what is drawn of a level, as data and series; range where the left scale begins and
  // ends, with what is written there; over draws on it.
  const drawn = (over, {values, series, rows, log, range, after}) => {
    const c = chart(over, values), {area, draw, svg} = c;
    const host = document.createElement("div");
    host.className = "uplots";
    host.setAttribute("role", "img");
    host.setAttribute("aria-labelledby", svg.getAttribute("aria-labelledby"));
    draw.append(host);
    draw.classList.add("replaced");
    let u, width, k, ys = [[], []], held = false; // the button, on it
    const columns = (l) => {
      const n = l.rates.new.length, at = Array.from({length: n + 1}, (_, i) => data.from + i * l.step);
      return [at, ...rows(l).map((r) => [...r, r[n - 1]])];
    };
    // A time at the very edge has a line and no room for its name.
    const named = () => {
      const [at, names] = ticks(), edge = (view[1] - view[0]) / area.w;
      return [at, names.map((n, i) => (at[i] < view[0] + 24 * edge || at[i] > view[1] - 16 * edge ? "" : n))];
    };
    const build = () => {
      width = Math.max(640, draw.clientWidth);
      k = width / area.W;
      const font = 12 * k + "px " + getComputedStyle(document.body).fontFamily, soft = () => css("--soft"), grid = {stroke: () => css("--line"), width: 1};
      u?.destroy();
      u = new uPlot({
        width, height: area.H * k, legend: {show: false}, padding: [area.y * k, (area.W - area.x - area.w) * k, 0, 0],
        cursor: {y: false, points: {show: false}, drag: {x: true, y: false, setScale: false, dist: 4}, bind: {dblclick: () => back}},
        scales: {
          x: {time: false, range: () => view},
          y: {distr: log ? 3 : 1, range: () => {
            ys = range(level());
            return ys[0];
          }},
        },
        axes: [
          {scale: "x", font, stroke: soft, grid, ticks: {show: false}, size: (area.H - area.y - area.h) * k, gap: (area.H - area.y - area.h - 16) * k, splits: () => named()[0], values: () => named()[1]},
          {scale: "y", font, stroke: soft, grid, ticks: {show: false}, size: area.x * k, gap: 8 * k, splits: () => ys[1], values: () => ys[1].map(short)},
        ],
        series: [{}, ...series.map((s) => ({scale: "y", points: {show: false}, paths: uPlot.paths.stepped({align: 1}), ...s}))],
        hooks: {
          draw: [(u) => {
            const r = u.bbox, ctx = u.ctx, d = devicePixelRatio, x = (t) => u.valToPos(t, "x", true);
            ctx.save();
            ctx.font = 12 * k * d + "px " + getComputedStyle(document.body).fontFamily;
            after(ctx, {r, x, y: (n) => u.valToPos(n, "y", true), k: k * d});
            // The ribbon under it.
            ctx.restore();
            ctx.save();
            const y = r.top + r.height + 15 * k * d, h = 7 * k * d;
            ctx.fillStyle = css(data.told ? "--line" : "--soft");
            if (data.told) ctx.fillRect(r.left, y + h / 2 - 1.5 * k * d, r.width, 3 * k * d);
            else for (let i = r.left; i < r.left + r.width; i += 6 * k * d) ctx.fillRect(i, y + h / 2, k * d, 2 * k * d);
            ctx.fillStyle = css("--red");
            for (const [a, b] of data.gaps) {
              const from = Math.max(r.left, x(data.from + a * data.step)), to = Math.min(r.left + r.width, x(data.from + b * data.step));
              if (to > from) ctx.fillRect(from, y, Math.max(1.5 * k * d, to - from), h);
            }
            ctx.fillStyle = css("--soft");
            ctx.font = 12 * k * d + "px " + getComputedStyle(document.body).fontFamily;
            ctx.textAlign = "right";
            ctx.fillText("loss", r.left - 8 * k * d, y + h);
            ctx.fillText("UTC", r.left - 8 * k * d, r.top + r.height + (area.H - area.y - area.h - 7) * k * d);
            ctx.restore();
          }],
          setSelect: [(u) => {
            const {left, width} = u.select;
            if (width <= 0) return;
            u.setSelect({left: 0, width: 0}, false);
            zoom(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
          }],
          setCursor: [(u) => point(u.cursor.left < 0 ? null : u.posToVal(u.cursor.left, "x"), c)],
        },
      }, columns(level()), host);
      u.over.addEventListener("mouseleave", () => point(null, c));
      u.over.addEventListener("mousedown", () => (held = true), true);
    };
    c.show = () => u.setData(columns(level()));
    c.printed = () => {};
    c.cross = (t, mine) => {
      const on = t !== null && t >= view[0] && t <= view[1];
      if (!held && (!mine || c.keyed())) u.setCursor({left: on ? u.valToPos(t, "x") : -10, top: on ? 0 : -10}, false);
      c.say(on ? t : null);
    };
    addEventListener("mouseup", () => (held = false), true);
    build();
    new ResizeObserver(() => width !== Math.max(640, draw.clientWidth) && build()).observe(draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
    return c;
  };

  const inView = (l, rows) => {
    const a = columnAt(view[0], l), b = columnAt(view[1], l);
    let n = 0;
    for (const r of rows) for (let i = a; i <= b; i++) n = Math.max(n, r[i] ?? 0);
    return n;
  };
  const unit = (ctx, {r, k}, text) => {
    ctx.fillStyle = css("--soft");
    ctx.textAlign = "left";
    ctx.fillText(text, r.left, r.top - 6 * k);
  };
  const line = (ctx, color, width, dash, points) => {
    ctx.beginPath();
    ctx.strokeStyle = css(color);
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    points.forEach(([x, y], i) => (i ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
    ctx.stroke();
  };

  const table = (over) => {
    const classes = data.occupancy.classes, colors = classes.map((c) => "--" + c.fill);
    const sums = (l) => {
      let s = new Array(l.rates.new.length).fill(0);
      return l.table.classes.map((c) => (s = s.map((n, i) => n + c.n[i])));
    };
    const top = (l) => sums(l).at(-1) ?? [];
    const kept = new Map(), of = (l) => kept.get(l) ?? kept.set(l, {sums: sums(l), top: top(l)}).get(l);
    const shares = data.occupancy.levels ?? [];
    return drawn(over, {
      rows: (l) => [...of(l).sums.toReversed(), ...(l.table.kernel ? [l.table.kernel.map((n) => n || null)] : []), ...shares.map((p) => l.table.max.map((n) => (n ? n * p / 100 : null)))],
      series: [
        ...colors.toReversed().map((color) => ({stroke: "transparent", width: 0, fill: () => css(color)})),
        ...(data.occupancy.kernel ? [{stroke: () => css("--ink"), width: 1.5}] : []),
        ...shares.map((p) => (p === 100 ? {stroke: () => css("--red"), width: 1.5} : {stroke: () => css("--soft"), width: 1, dash: [2, 4]})),
      ],
      range: (l) => {
        let n = Math.max(1, inView(l, [of(l).top, l.table.kernel ?? []]));
        const limit = Math.min(...(l.table.max ?? []).slice(columnAt(view[0], l), columnAt(view[1], l) + 1).filter((n) => n));
        if (limit <= 3 * n) n = Math.max(n, limit);
        let step = 1;
        for (let p = 1; n / step > 5; p *= 10) step = [p, 2 * p, 5 * p].find((s) => n / s <= 5) ?? 10 * p;
        const end = Math.ceil(n * 1.04 / step) * step;
        return [[0, end], Array.from({length: end / step + 1}, (_, i) => i * step)];
      },
      after: (ctx, g) => {
        const l = level();
        unit(ctx, g, "entries, the most in each " + long(l.step));
        ctx.beginPath();
        ctx.rect(g.r.left, g.r.top, g.r.width, g.r.height);
        ctx.clip();
        const path = (points) => points.map(([t, n]) => [g.x(t), g.y(n)]);
        for (const f of data.occupancy.fans ?? []) {
          ctx.beginPath();
          path(f.band).forEach(([x, y]) => ctx.lineTo(x, y));
          ctx.globalAlpha = .22;
          ctx.fillStyle = css("--lb2");
          ctx.fill();
          ctx.globalAlpha = 1;
          if (f.expected) line(ctx, "--lv2", 1.8 * g.k, [6 * g.k, 3 * g.k], path(f.expected));
        }
        const i = l.table.max?.findIndex((n, i) => n && data.from + (i + 1) * l.step > view[0]) ?? -1;
        if (i < 0) return;
        ctx.fillStyle = css("--soft");
        for (const p of shares) ctx.fillText(p === 100 ? "limit " + count(l.table.max[i]) : p + " %", Math.max(g.r.left, g.x(data.from + i * l.step)) + (p === 95 ? 48 : 3) * g.k, g.y(l.table.max[i] * p / 100) + (p === 95 ? 11 : -3) * g.k);
      },
      values: (t) => {
        const l = level(), i = columnAt(t, l), x = l.table, n = of(l).top[i] ?? 0;
        const parts = x.classes.filter((c) => c.n[i]).map((c) => c.name + " " + count(c.n[i])).reverse();
        return count(n) + " entries" + (parts.length ? ": " + parts.join("; ") : "") + (x.kernel?.[i] ? "; kernel " + count(x.kernel[i]) : "") + (x.max?.[i] ? ` of ${count(x.max[i])} (${(100 * Math.max(n, x.kernel?.[i] ?? 0) / x.max[i]).toFixed(1)} %)` : "");
      },
    });
  };

  const rates = (over) => {
    const per = (l, all) => all.map((n) => (n ? n / l.step : null));
    const peaks = (l) => l.rates.peak.map((n) => (n ? 100 * n : null));
    return drawn(over, {
      log: true,
      rows: (l) => [per(l, l.rates.new), peaks(l), ...(l.rates.lost ? [per(l, l.rates.lost)] : [])],
      series: [
        {stroke: "transparent", width: 0, fill: () => `color-mix(in srgb, ${css("--blue")} 60%, transparent)`},
        {stroke: "transparent", width: 0},
        ...(data.rates.lost ? [{stroke: () => css("--red"), width: 1.5, dash: [2, 2]}] : []),
      ],
      range: (l) => {
        const rows = [per(l, l.rates.new), peaks(l), per(l, l.rates.lost ?? [])];
        let low = 1;
        for (let i = columnAt(view[0], l); i <= columnAt(view[1], l); i++) low = Math.min(low, rows[0][i] ?? 1, rows[2][i] ?? 1);
        const from = Math.floor(Math.log10(low) + 1e-9), to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(10, inView(l, rows))) - 1e-9));
        return [[10 ** from * .85, 10 ** to], Array.from({length: to - from + 1}, (_, i) => +(10 ** (from + i)).toPrecision(1))];
      },
      after: (ctx, g) => {
        const l = level();
        unit(ctx, g, "per second, logarithmic; columns of " + long(l.step));
        ctx.beginPath();
        ctx.rect(g.r.left, g.r.top - 2, g.r.width, g.r.height + 2);
        ctx.clip();
        ctx.strokeStyle = css("--peak");
        ctx.lineWidth = 2 * g.k;
        ctx.setLineDash([]);
        ctx.beginPath();
        for (let i = columnAt(view[0], l); i <= columnAt(view[1], l); i++) {
          if (!l.rates.peak[i]) continue;
          const x = g.x(data.from + i * l.step), y = g.y(100 * l.rates.peak[i]);
          ctx.moveTo(x, y);
          ctx.lineTo(Math.max(x + g.k, g.x(data.from + (i + 1) * l.step)), y);
        }
        ctx.stroke();
      },
      values: (t) => {
        const l = level(), i = columnAt(t, l), r = l.rates;
        return rate(r.new[i] / l.step) + "/s new (" + count(r.new[i]) + " in " + long(l.step) + "); busiest 10 ms " + count(r.peak[i]) + " = " + count(100 * r.peak[i]) + "/s" + (r.lost ? "; " + rate(r.lost[i] / l.step) + "/s lost" : "");
      },
    });
  };

  // What can be done, and what is shown.
  hint = document.createElement("div");
  hint.className = "zoom";
  hint.setAttribute("role", "toolbar");
  hint.setAttribute("aria-label", "Zoom in time, of all pictures");
  const range = make("span", {role: "status"}, hint);
  const button = (text, name, fn) => {
    const b = make("button", {type: "button", "aria-label": name, title: name}, hint, text);
    b.addEventListener("click", fn);
    return b;
  };
  button("+", "Zoom in", () => scale(1 / 2));
  button("−", "Zoom out", () => scale(2));
  button("◂", "Earlier", () => pan(-1 / 2));
  button("▸", "Later", () => pan(1 / 2));
  const undo = button("back", "Back to what was shown before", back), reset = button("all", "Show all", all);
  make("span", {class: "soft"}, hint, "Drag in a picture to zoom, double click to go back.");
  hint.show = () => {
    const is = view === whole;
    range.textContent = stamp(view[0]).replace(" UTC", "") + " to " + stamp(view[1]).slice(11) + (is ? "" : " (" + long(view[1] - view[0]) + ")");
    undo.disabled = is && !past.length;
    reset.disabled = is;
    hint.classList.toggle("zoomed", !is);
  };

  for (const over of document.querySelectorAll(".over")) {
    const id = over.closest("section").id;
    if (id === "occupancy" && data.occupancy) table(over);
    else if (id === "rates") rates(over);
    else picture(over);
  }
  charts[0]?.draw.closest("section").before(hint);
  hint.show();
  addEventListener("beforeprint", () => charts.forEach((c) => c.printed()));
  addEventListener("afterprint", () => charts.forEach((c) => c.show()));
})();
