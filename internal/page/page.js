"use strict";
// Fetches the page anew and swaps what is in main. Without it the page is whole.
(() => {
  const every = 2000, longest = 30000, patience = 5000;
  const state = document.getElementById("state"), button = document.getElementById("pause");
  let paused = false, wait = every, timer = 0, asking = null;

  const main = () => document.getElementById("main");
  const script = (doc) => doc.querySelector("script").getAttribute("src");
  const say = (text, stale) => {
    if (state.textContent !== text) state.textContent = text;
    state.classList.toggle("stale", stale);
  };

  // Keeps open and closed details, focus and places scrolled to.
  function swap(doc) {
    const old = main(), fresh = doc.getElementById("main"), focus = document.activeElement;
    if (!fresh) throw new Error("no page");
    if (script(doc) !== script(document)) return location.reload();
    for (const d of old.querySelectorAll("details")) {
      const same = doc.getElementById(d.id);
      if (same) same.open = d.open;
    }
    const scrolled = [...old.querySelectorAll(".wide")].map((e) => [e.id, e.scrollLeft]);
    const at = old.contains(focus) && focus !== old ? focus.id : "";
    old.replaceChildren(...fresh.childNodes);
    old.dataset.at = fresh.dataset.at;
    document.title = doc.title;
    for (const [id, x] of scrolled) {
      const e = x && document.getElementById(id);
      if (e) e.scrollLeft = x;
    }
    const again = at && document.getElementById(at);
    if (again) again.focus({ preventScroll: true });
  }

  // Text that somebody marks stays.
  function marking() {
    const s = getSelection();
    return s && !s.isCollapsed && main().contains(s.anchorNode);
  }

  async function refresh() {
    clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = new AbortController();
    const late = setTimeout(() => asking.abort(), patience);
    try {
      const r = await fetch(location.pathname, { cache: "no-store", signal: asking.signal });
      if (!r.ok) throw new Error("answer " + r.status);
      const doc = new DOMParser().parseFromString(await r.text(), "text/html");
      if (!marking()) swap(doc);
      wait = every;
      tell();
    } catch (e) {
      wait = Math.min(longest, wait * 2);
      say("Stale since " + main().dataset.at + " UTC: " + (e.name === "AbortError" || e instanceof TypeError ? "no answer" : e.message) + ". " + (paused ? "Paused." : "Next try in " + wait / 1000 + " s."), true);
    } finally {
      clearTimeout(late);
      asking = null;
      plan();
    }
  }

  function plan() {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(refresh, wait);
  }

  function tell() {
    say(paused ? "Paused at " + main().dataset.at + " UTC" : "Live, every " + every / 1000 + " s", false);
    button.textContent = paused ? "Go on" : "Pause";
  }

  function toggle() {
    paused = !paused;
    tell();
    if (paused) clearTimeout(timer);
    else refresh();
  }

  button.hidden = false;
  button.addEventListener("click", toggle);
  document.addEventListener("visibilitychange", () => (document.hidden || paused ? clearTimeout(timer) : refresh()));
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.altKey || e.metaKey) return;
    const control = e.target.closest("a, button, summary, input");
    if (e.key === "p" || (e.key === " " && !control)) {
      e.preventDefault();
      toggle();
    } else if (e.key === "r") refresh();
  });
  tell();
  plan();
})();
