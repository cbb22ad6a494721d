// Live updates: the server sends the regions of the page that have changed. Without this script the page is as it was loaded.
"use strict";
(() => {
  const url = document.body.dataset.events;
  const live = document.getElementById("live");
  if (!url || !live || !window.EventSource) return;
  let source = null;

  const say = (text, on) => {
    if (live.textContent !== text) live.textContent = text;
    live.classList.toggle("on", on);
  };

  // A region that somebody works in is left alone until the next event that changes it.
  const busy = (region) => {
    const selection = document.getSelection();
    const marked = selection && !selection.isCollapsed && region.contains(selection.anchorNode);
    return marked || (region.contains(document.activeElement) && document.activeElement.matches("input, select, textarea"));
  };

  // A link or button that has the focus is found again by what it does, so that the keyboard stays where it was.
  const place = (region) => {
    const at = document.activeElement;
    if (!at || !region.contains(at)) return null;
    if (at.matches("a[href]")) return (el) => el.matches("a") && el.getAttribute("href") === at.getAttribute("href");
    const form = at.closest("form");
    if (!form) return null;
    const was = form.getAttribute("action") + new URLSearchParams(new FormData(form));
    return (el) => el.form && el.form.getAttribute("action") + new URLSearchParams(new FormData(el.form)) === was;
  };

  const update = (event) => {
    say("live", true);
    for (const [name, html] of Object.entries(JSON.parse(event.data))) {
      const region = document.querySelector(`[data-live="${name}"]`);
      if (!region || busy(region)) continue;
      const same = place(region);
      region.innerHTML = html; // rendered and escaped by the server
      if (same) {
        const again = [...region.querySelectorAll("a, button")].find(same);
        if (again) again.focus({ preventScroll: true });
      }
    }
  };

  const start = () => {
    if (source) return;
    source = new EventSource(url);
    source.addEventListener("update", update);
    source.onopen = () => say("live", true);
    source.onerror = () => say("not live", false);
  };
  const stop = () => {
    if (source) source.close();
    source = null;
    say("not live", false);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  window.addEventListener("pagehide", stop);
  window.addEventListener("pageshow", start);
  start();
})();
