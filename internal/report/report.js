"use strict";
// Says which time is under the pointer, in UTC and here. Without it nothing is missing.
(() => {
  const two = (n) => String(n).padStart(2, "0");
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const over of document.querySelectorAll(".over")) {
    const svg = over.closest("svg"), draw = over.closest(".draw");
    const cross = document.createElementNS("http://www.w3.org/2000/svg", "line"), out = document.createElement("div");
    cross.setAttribute("class", "cross");
    out.className = "readout";
    out.hidden = true;
    const x = +over.getAttribute("x"), w = +over.getAttribute("width"), y = +over.getAttribute("y"), h = +over.getAttribute("height");
    cross.setAttribute("y1", y);
    cross.setAttribute("y2", y + h);
    over.addEventListener("pointermove", (e) => {
      const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
      const i = Math.min(over.dataset.n - 1, Math.max(0, Math.floor((at - x) / w * over.dataset.n)));
      const us = +over.dataset.from + i * over.dataset.step, d = new Date(us / 1000);
      cross.setAttribute("x1", at);
      cross.setAttribute("x2", at);
      if (!cross.isConnected) svg.append(cross);
      if (!out.isConnected) draw.append(out);
      out.hidden = false;
      out.textContent = d.toISOString().replace("T", " ").replace("Z", " UTC") + " · " + two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds()) + " " + zone;
    });
    over.addEventListener("pointerleave", () => {
      cross.remove();
      out.hidden = true;
    });
  }
})();
