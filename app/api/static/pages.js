"use strict";
// What all pages do: parts marked data-live follow the server, forms marked data-send stay on their page.

const LIVE_MS = 2000;
const PATIENCE_MS = 10000;
const banner = document.getElementById("connection");
const csrfToken = () => document.querySelector("meta[name=csrf-token]").content;

/** What is inside an element: where children are named by data-key, these alone; else text, too. */
function insides(element, isKeyed) {
  return isKeyed ? element.children : element.childNodes;
}

const hasKeys = (element) => [...element.children].some((child) => child.dataset.key);

/** Make an element like a fresh one without exchanging it: what has the focus, is selected or clicked on stays. */
function become(element, fresh) {
  if (element.isEqualNode(fresh)) return;
  if (element.nodeType === Node.TEXT_NODE) return void (element.data = fresh.data);
  if (element.nodeType !== Node.ELEMENT_NODE || element.matches(".told")) return;
  for (const { name } of [...element.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "data-sending") element.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
  const chosen = element.matches("select") ? element.value : null;
  becomeInside(element, fresh);
  if (chosen !== null && [...element.options].some((option) => option.value === chosen)) element.value = chosen;
}

function becomeInside(element, fresh) {
  const isKeyed = hasKeys(element) || hasKeys(fresh);
  const wanted = new Set([...fresh.children].map((child) => child.dataset.key));
  for (const child of [...element.children]) {
    if (child.dataset.key && !wanted.has(child.dataset.key)) child.remove();
  }
  const inside = insides(element, isKeyed);
  [...insides(fresh, isKeyed)].forEach((next, index) => {
    const now = inside[index];
    const key = next.dataset?.key;
    const same = key
      ? [...element.children].find((child) => child.dataset.key === key)
      : now && now.nodeName === next.nodeName && !now.dataset?.key ? now : undefined;
    if (same !== now || !same) element.insertBefore(same || document.importNode(next, true), now || null);
    if (same) become(same, next);
  });
  const count = insides(fresh, isKeyed).length;
  while (inside.length > count) inside[count].remove();
}

/** Put what the server says into the parts that show it. */
function exchange(fresh) {
  document.querySelector("meta[name=csrf-token]").content = fresh.querySelector("meta[name=csrf-token]").content;
  for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrfToken();
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (other) become(part, other);
  }
}

/** Ask for this page again. */
async function refresh() {
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS),
    }).catch(() => { throw new Error("the server cannot be reached"); });
    if (answer.redirected && new URL(answer.url).pathname === "/login/") return location.reload();
    if (!answer.ok) throw new Error(`the server answers with ${answer.status}`);
    exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
    banner.hidden = true;
  } catch (error) {
    const text = `What you see is not up to date: ${error.message}. Trying again.`;
    if (banner.textContent !== text) banner.textContent = text; // screen readers say it once
    banner.hidden = false;
  }
}

/** Ask again and again while somebody looks, and at once when somebody looks again. */
async function follow() {
  for (;;) {
    await new Promise((resume) => {
      const timer = setTimeout(resume, LIVE_MS);
      document.addEventListener("visibilitychange", () => { clearTimeout(timer); resume(); }, { once: true });
    });
    if (!document.hidden) await refresh();
  }
}

/** What went wrong, as a sentence; for answers of this server and for what is none. */
async function reasonOf(answer) {
  try {
    const { message, advice } = (await answer.json()).error;
    return [message, advice].filter(Boolean).join(" ");
  } catch {
    return `The server answers with ${answer.status}.`;
  }
}

function tell(form, text, kind) {
  const place = form.querySelector(".told");
  place.className = `told ${kind}`;
  place.textContent = text;
}

/** Send a form without leaving its page. */
async function send(form) {
  if ("sending" in form.dataset) return;
  if (form.dataset.confirm && !confirm(form.dataset.confirm)) return;
  form.dataset.sending = ""; // buttons stay enabled: a disabled one would lose the focus
  tell(form, form.dataset.doing || "", "muted");
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form)),
    });
    if (answer.ok) {
      if ("reset" in form.dataset) form.reset();
      tell(form, form.dataset.done || "", "good");
    } else {
      tell(form, await reasonOf(answer), "bad");
    }
  } catch {
    tell(form, "The server cannot be reached.", "bad");
  } finally {
    delete form.dataset.sending;
  }
  const hadFocus = form.contains(document.activeElement);
  await refresh();
  if (hadFocus && !form.isConnected) document.getElementById("content").focus({ preventScroll: true });
}

document.addEventListener("submit", (event) => {
  if (event.target.matches("form[data-send]")) {
    event.preventDefault();
    send(event.target);
  }
});
if (document.querySelector("[data-live]")) follow();
