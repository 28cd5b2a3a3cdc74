// Keys, copying and local times. Every page works without this script.
"use strict";
(() => {
  const root = document.documentElement;
  const cookie = (name) => document.cookie.split("; ").find((pair) => pair.startsWith(name + "="))?.split("=")[1];
  const say = (text) => { const live = document.getElementById("live"); if (live) live.textContent = text; };

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      say("Copied");
    });
  }

  if (cookie("actchain-zone") === "local") {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      const two = (number) => String(number).padStart(2, "0");
      const minutes = -at.getTimezoneOffset();
      const zone = (minutes < 0 ? "-" : "+") + two(Math.trunc(Math.abs(minutes) / 60)) + ":" + two(Math.abs(minutes) % 60);
      time.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ` +
        `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}${zone}`;
    }
  }

  if (root.dataset.keys === "off") return;
  const places = new Map();
  for (const link of document.querySelectorAll(".nav a[data-key]")) places.set(link.dataset.key, link);
  const rows = () => [...document.querySelectorAll("[data-row]")];
  let going = false;
  const step = (by) => {
    const all = rows();
    const now = all.findIndex((row) => row.contains(document.activeElement));
    const next = all[Math.min(Math.max(now + by, 0), all.length - 1)];
    (next?.querySelector("a") ?? next)?.focus();
  };
  const focus = (selector) => { const found = document.querySelector(selector); found?.focus(); return Boolean(found); };
  const follow = (selector) => { const found = document.querySelector(selector); if (found) location.assign(found.href); return Boolean(found); };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { if (typing) event.target.blur(); else follow("a[data-back]"); return; }
    if (typing) return;
    let done = true;
    if (going) {
      going = false;
      const place = places.get(event.key);
      if (place) location.assign(place.href); else done = false;
    } else if (event.key === "g") going = true;
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "n") done = follow("a[rel=next]");
    else if (event.key === "p") done = follow("a[rel=prev]");
    else if (event.key === "?") done = follow("a[data-help]");
    else if (event.key === "/") done = focus("#jump");
    else if (event.key === "y") { const copy = document.querySelector("button.copy"); copy?.click(); }
    else if (/^[adxcef]$/.test(event.key)) done = focus(`[data-move="${event.key}"]`);
    else done = false;
    if (done) event.preventDefault();
  });
})();
