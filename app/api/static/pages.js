"use strict";
// What all pages do: parts marked data-live follow the server, forms marked data-send stay on their page.

const LIVE_MS = 2000;
const banner = document.getElementById("connection");
const csrfToken = () => document.querySelector("meta[name=csrf-token]").content;

/** Put what the server says into the parts that show it, but not under somebody's fingers. */
function exchange(fresh) {
  document.querySelector("meta[name=csrf-token]").content = fresh.querySelector("meta[name=csrf-token]").content;
  for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrfToken();
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    const busy = part.contains(document.activeElement) && document.activeElement !== document.body;
    const told = part.querySelector(".told:not(:empty)");
    const selected = !getSelection().isCollapsed && part.contains(getSelection().anchorNode);
    if (other && !busy && !told && !selected && part.innerHTML !== other.innerHTML) part.replaceChildren(...other.childNodes);
  }
}

/** Ask for this page again. */
async function refresh() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (answer.redirected && new URL(answer.url).pathname === "/login/") return location.reload();
    if (!answer.ok) throw new Error(`the server answers with ${answer.status}`);
    exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
    banner.hidden = true;
  } catch (error) {
    banner.textContent = `This page is not up to date: ${error.message}. It will try again.`;
    banner.hidden = false;
  }
}

async function follow() {
  for (;;) {
    await new Promise((resume) => setTimeout(resume, LIVE_MS));
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

function tell(form, text, isGood) {
  const place = form.querySelector(".told");
  if (!place) return text && !isGood ? alert(text) : undefined;
  place.textContent = text;
  place.classList.toggle("good", isGood);
}

/** Send a form without leaving its page. */
async function send(form) {
  if (form.dataset.confirm && !confirm(form.dataset.confirm)) return;
  const buttons = form.querySelectorAll("button");
  tell(form, "", true);
  for (const button of buttons) button.disabled = true;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { Accept: "application/json" },
      body: new URLSearchParams(new FormData(form)),
    });
    if (answer.ok) {
      if ("reset" in form.dataset) form.reset();
      tell(form, form.dataset.done || "", true);
    } else {
      tell(form, await reasonOf(answer), false);
    }
  } catch (error) {
    tell(form, `The server cannot be reached: ${error.message}.`, false);
  } finally {
    for (const button of buttons) button.disabled = false;
    if (document.activeElement && form.contains(document.activeElement)) document.activeElement.blur();
    await refresh();
  }
}

document.addEventListener("submit", (event) => {
  if (event.target.matches("form[data-send]")) {
    event.preventDefault();
    send(event.target);
  }
});
if (document.querySelector("[data-live]")) follow();
