// Fragments, live rows, keys, copying, local times. Every page works without this script.
(() => {
  "use strict";
  const root = document.documentElement;
  root.dataset.js = "";
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => { const live = one("#live"); if (live) live.textContent = text; };

  // The only place where text becomes HTML: what this server has rendered. Text never becomes script.
  const refuse = function () { throw new Error("The console evaluates no text."); };
  const html = { createHTML: (text) => text, createScript: refuse };
  const policy = window.trustedTypes ? trustedTypes.createPolicy("actchain", html) : html;
  const rendered = (text) => {
    const markup = policy.createHTML(text);
    return new DOMParser().parseFromString(markup, "text/html");
  };

  // Errors stay where they happen.
  const unanswered = "The server does not answer. Nothing was changed here. Try again in a moment.";
  const complain = (place, nodes) => {
    let box = one(":scope > .problem", place);
    if (!box) {
      box = document.createElement("div");
      box.className = "problem";
      box.setAttribute("role", "alert");
      place.prepend(box);
    }
    box.replaceChildren(...nodes);
    for (const link of all('a[href*="/console/sign-in"]', box)) { link.target = "_blank"; link.removeAttribute("data-back"); }
    return box;
  };
  const paragraph = (text) => { const made = document.createElement("p"); made.textContent = text; return made; };
  const parts = (page) => [...(one("#page", page)?.childNodes ?? [])].filter((node) => node.id !== "signed-in-again");
  const explained = (page, status) => {
    const found = parts(page);
    return found.length ? found : [paragraph(`The server refused this (status ${status}). Nothing was changed.`)];
  };
  const calm = (place) => {
    one(":scope > .problem", place)?.remove();
    for (const field of all("[aria-invalid]", place)) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
  };

  htmx.registerExtension("actchain", {
    init: (api) => api.initSecurity(policy, refuse, refuse),
    htmx_after_request: (element, { ctx }) => {
      if (isFeed(element)) { tell(ctx.response.status === 401 ? "signed out" : "waits to connect"); reconnect(element); return false; }
      const page = one("#page");
      calm(page);
      if (ctx.response.status < 400) return true;
      complain(page, explained(rendered(ctx.text), ctx.response.status)).scrollIntoView({ block: "nearest" });
      return false;
    },
    htmx_error: (element, detail) => {
      if (isFeed(element)) { tell("reconnecting"); reconnect(element); }
      else if (detail.ctx) complain(one("#page"), [paragraph(unanswered)]);
    },
    htmx_sse_after_connection: (element, { connection }) => {
      if (connection.status === 200) tell("live ●");
    },
    htmx_sse_error: (element, { status }) => { signedOut = status === 401; tell(signedOut ? "signed out" : "reconnecting"); },
    htmx_sse_before_connection: (element, { connection }) => { if (signedOut) connection.cancelled = true; else if (!document.hidden) tell(connection.attempt ? "reconnecting" : "connecting"); },
    htmx_sse_after_message: () => arrived(),
    htmx_after_swap: (element) => { if (isFeed(element)) localize(); else refresh(); },
  });

  // Live pages: what moves is where no person is at work.
  let signedOut = false;
  const isFeed = (element) => element instanceof Element && element.id.startsWith("feed-");
  const clock = () => {
    const now = new Date();
    return root.dataset.zone === "local" ? now.toTimeString().slice(0, 8) : now.toISOString().slice(11, 19) + "Z";
  };
  const tell = (text) => {
    const state = one("#live-state");
    if (!state || state.dataset.said === text) return;
    state.dataset.said = text;
    state.textContent = text === "live ●" ? text : `${text} since ${clock()}`;
  };
  document.addEventListener("visibilitychange", () => { if (document.hidden) tell("paused"); });
  const reconnect = (feed) => {
    if (feed.dataset.waits) return;
    feed.dataset.waits = "true";
    setTimeout(() => {
      if (!feed.isConnected) return;
      const again = feed.cloneNode();
      again.removeAttribute("data-waits");
      again.removeAttribute("data-htmx-powered");
      feed.replaceWith(again);
      htmx.process(again);
    }, 5000);
  };
  const busy = (list) => {
    const selection = getSelection();
    const selected = selection && !selection.isCollapsed && selection.containsNode(list, true);
    return list.matches(":hover") || list.contains(document.activeElement) || selected;
  };
  let newest = 0, shownAt = 0, later;
  let listed = "";
  let followed = "";
  const feed = () => one('[id^="feed-"]')?.id;
  // No person made it: it keeps no session and adds no history.
  const unattended = (link) => {
    link.setAttribute("hx-push-url", "false");
    link.setAttribute("hx-headers", '{"Actchain-Unattended": "true"}');
    link.click();
  };
  // Approvals are shown again when they change.
  const reload = () => {
    const link = document.createElement("a");
    link.href = location.pathname + location.search;
    link.setAttribute("hx-get", link.href);
    link.textContent = "The list has changed · show";
    const note = document.createElement("p");
    note.id = "newer";
    note.append(link);
    one("#newer")?.remove();
    one(".page h1")?.after(note);
    htmx.process(note);
    const list = one(".page table");
    if (!list || !busy(list)) unattended(link);
  };
  const arrived = () => {
    const number = one("#waiting")?.textContent.match(/[0-9,]+[+]?/)?.[0];
    document.title = document.title.replace(/^[(][0-9,+]+[)] /, "");
    if (location.pathname.endsWith("/console/approvals")) {
      if (number) document.title = `(${number}) ${document.title}`;
      if (listed !== one("#waiting")?.textContent) reload();
      return;
    }
    const show = one("#newer a[data-newer]");
    const count = Number(show?.dataset.newer ?? 0);
    const list = one("[data-live]");
    clearTimeout(later);
    const wait = shownAt + 1000 - performance.now();
    if (show && wait > 0) { later = setTimeout(arrived, wait); return; }
    // More than twenty a second are not for reading: only the count moves.
    const few = count - newest <= 20 && !one("#newer")?.textContent.includes("+");
    if (show && list && few && feed() !== followed && !busy(list)) { followed = feed(); shownAt = performance.now(); unattended(show); }
    newest = count;
  };

  // Moves: a form that was refused keeps what was typed.
  const renew = async (form) => {
    const answer = await fetch(location.href, { headers: { "HX-Request": "true" } });
    if (!answer.ok) return;
    const page = rendered(await answer.text());
    const same = all("form", page).find((other) => other.getAttribute("action") === form.getAttribute("action"));
    const token = same && one('input[name="form_token"]', same);
    if (token) form.elements.form_token.value = token.value;
  };
  const send = async (form, submitter) => {
    if (form.dataset.signedOut) { await renew(form); delete form.dataset.signedOut; }
    const body = new URLSearchParams(new FormData(form, submitter));
    const answer = await fetch(form.getAttribute("action") ?? location.href, { method: "POST", body, headers: { "HX-Request": "true" } });
    if (answer.redirected) { location.assign(answer.url); return; }
    const page = rendered(await answer.text());
    calm(form);
    if (answer.ok) {
      const shown = one("#page");
      shown.replaceChildren(...parts(page));
      document.title = page.title;
      refresh(); htmx.process(shown); scrollTo(0, 0);
      (one("a[autofocus]", shown) ?? shown).focus({ preventScroll: true });
      return;
    }
    if (answer.status === 401) form.dataset.signedOut = "true";
    const box = complain(form, explained(page, answer.status));
    const name = one("[data-field]", box)?.dataset.field;
    const field = name && form.elements[name];
    if (!field) { box.tabIndex = -1; box.focus(); return; }
    box.id ||= "problem-of-" + name;
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", box.id);
    field.focus();
  };
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.getAttribute("method") !== "post" || !one("#page")?.contains(form) || event.defaultPrevented) return;
    event.preventDefault();
    if (form.dataset.sending) return;
    form.dataset.sending = "true";
    send(form, event.submitter)
      .catch(() => complain(form, [paragraph(unanswered)]))
      .finally(() => { delete form.dataset.sending; });
  });

  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); say("Copied"); } catch { say("The browser does not allow copying."); }
  };
  document.addEventListener("click", (event) => {
    const copied = event.target.closest?.("[data-copy]");
    if (copied) copy(copied.dataset.copy);
  });

  const localize = () => {
    if (root.dataset.zone !== "local") return;
    const iso = (at) => new Date(at).toISOString();
    for (const time of all("time[datetime]")) {
      const at = new Date(time.dateTime);
      const ahead = at.getTimezoneOffset() * -60000;
      const zone = (ahead < 0 ? "-" : "+") + iso(Math.abs(ahead)).slice(11, 16);
      time.textContent = iso(+at + ahead).slice(0, 19).replace("T", " ") + zone;
    }
  };
  const refresh = () => { localize(); newest = 0; listed = one("#waiting")?.textContent; if (feed() !== followed) followed = ""; };
  refresh();

  if (root.dataset.keys === "off") return;
  const focused = () => document.activeElement?.closest("[data-row]");
  const enter = (row) => (row && one("a", row) || row)?.focus();
  const step = (by) => {
    const rows = all("[data-row]").filter((row) => row.checkVisibility());
    const now = rows.indexOf(focused());
    const next = rows[Math.min(Math.max(now + by, 0), rows.length - 1)];
    enter(next);
  };
  const nextFinding = () => {
    const rows = all("[data-row]");
    const next = rows.slice(rows.indexOf(focused()) + 1).find((row) => row.matches("[data-finding]"));
    enter(next);
    return Boolean(next);
  };
  const focus = (found) => { found?.focus(); return Boolean(found); };
  const press = (found) => { found?.click(); return Boolean(found); };
  const tab = (by) => {
    const tabs = all(".tabs a");
    const now = tabs.findIndex((link) => link.ariaCurrent === "page");
    return now >= 0 && press(tabs[now + by]);
  };
  const move = (key) => {
    const selector = `[data-move="${key}"]`;
    return focus((focused() && one(selector, focused())) || one(selector));
  };
  const keys = {
    j: () => step(1), k: () => step(-1), ".": nextFinding,
    n: () => press(one("a[rel=next]")), p: () => press(one("a[rel=prev]")),
    "?": () => press(one("a[data-help]")), "/": () => focus(one("#jump")),
    "[": () => tab(-1), "]": () => tab(1),
    y: () => press((focused() && one("[data-copy]", focused())) || one(".page [data-copy]")),
    l: () => copy(one("a[data-link]")?.href ?? location.href),
    ...Object.fromEntries([..."adxcef"].map((key) => [key, () => move(key)])),
  };
  // Without focus, Enter opens the first row.
  const first = () => [document.body, one("#page")].includes(document.activeElement) && press(one("[data-row] a"));
  let going = false;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { if (typing) event.target.blur(); else press(one(".page a[data-back]")); return; }
    if (typing) return;
    let done = true;
    if (going) {
      going = false;
      done = press(all(".nav a[data-key]").find((link) => link.dataset.key === event.key));
    } else if (event.key === "g") going = true;
    else if (event.key === "Enter") done = first();
    else done = Object.hasOwn(keys, event.key) && keys[event.key]() !== false;
    if (done) event.preventDefault();
  });
})();
