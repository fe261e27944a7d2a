// Times as how long ago they were, and parts of the page that the server sends again.
"use strict";
(() => {
  const body = document.body;
  let offset = Date.parse(body.dataset.now) - Date.now();
  const now = () => Date.now() + offset;

  function ago(at) {
    const seconds = Math.round((now() - at) / 1000);
    if (seconds < -60) return null;
    if (seconds < 2) return "just now";
    if (seconds < 60) return `${seconds} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 172800) {
      const minutes = Math.floor(seconds / 60) % 60;
      return `${Math.floor(seconds / 3600)} h${minutes && seconds < 36000 ? ` ${minutes} min` : ""} ago`;
    }
    return seconds < 86400 * 60 ? `${Math.floor(seconds / 86400)} days ago` : null;
  }

  function tell(within) {
    for (const each of within.querySelectorAll("time")) {
      if (!each.title) each.title = each.textContent;
      const text = ago(Date.parse(each.dateTime)) || each.title;
      if (each.textContent !== text) each.textContent = text;
    }
  }
  tell(document);
  setInterval(() => { if (!document.hidden) tell(document); }, 1000);

  const light = document.getElementById("live");
  function show(state, text) {
    if (!light) return;
    light.dataset.state = state;
    light.lastElementChild.textContent = text;
  }

  // What somebody marks or presses is not taken from under the pointer.
  function inUse(part) {
    const marked = document.getSelection();
    if (marked && !marked.isCollapsed && part.contains(marked.anchorNode)) return true;
    return Boolean(part.querySelector(":active"));
  }

  const part = document.querySelector("[data-live]");
  if (!part) return;
  let source = null, waiting = null;
  function put() {
    if (waiting === null) return;
    if (inUse(part)) { setTimeout(put, 300); return; }
    const places = [...part.querySelectorAll(".wide")].map(each => each.scrollLeft);
    const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.innerHTML = waiting;
    waiting = null;
    tell(part);
    part.querySelectorAll(".wide").forEach((each, at) => { each.scrollLeft = places[at] || 0; });
    if (focused) part.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  }
  function open() {
    if (source) return;
    const query = new URLSearchParams({ part: part.dataset.live, key: part.dataset.key });
    source = new EventSource(`${body.dataset.root}/live?${query}`);
    source.onopen = () => show("on", "live");
    source.onmessage = event => {
      const sent = JSON.parse(event.data);
      offset = Date.parse(sent.now) - Date.now();
      show("on", "live");
      if (sent.html !== undefined) { waiting = sent.html; put(); }
    };
    source.addEventListener("over", () => { close(); show("on", "done"); });
    source.onerror = () => {
      show("lost", "no connection");
      // A browser gives up where the server refuses; then it is tried again, seldom.
      if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(() => { if (!document.hidden) open(); }, 15000); }
    };
  }
  function close() { if (source) source.close(); source = null; }
  // A page in the background looks at nothing, and so nothing is read for it.
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  if (!document.hidden) open();
})();
