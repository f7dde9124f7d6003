"use strict";
// Ask a model: submit the request, follow its events, stop it.

const form = document.getElementById("ask");
const card = document.getElementById("answer-card");
const answer = document.getElementById("answer");
const state = document.getElementById("state");
const figures = document.getElementById("figures");
const notices = document.getElementById("notices");
const record = document.getElementById("record");
const told = document.getElementById("told");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");
let asking = false;
let running = null;

// How long a connection that broke is made anew: as long as agents keep an answer for a controller that died.
const RETRY_SECONDS = 120;

/** The server-sent events of a response, one at a time: [name, data, id]. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const pick = (field) => lines.find((line) => line.startsWith(field))?.slice(field.length);
      const data = pick("data: ");
      if (data !== undefined) yield [pick("event: "), JSON.parse(data), pick("id: ")];
    }
  }
}

function bodyOf(fields) {
  const parameters = {
    max_tokens: Number(fields.get("max_tokens")),
  };
  // An empty field is as the model has it.
  for (const name of ["temperature", "top_p", "seed"]) {
    if (fields.get(name)) parameters[name] = Number(fields.get(name));
  }
  return { model: fields.get("model"), prompt: fields.get("prompt"), chat: fields.has("chat"), parameters };
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
  }).catch(() => { throw new Error("The server cannot be reached."); });
  if (!response.ok) throw new Error(await reasonOf(response));
  return response.json();
}

/** Say how far it is; `kind` is a badge's. */
function show(kind, text) {
  state.className = `badge ${kind}`;
  state.lastElementChild.textContent = text;
}

/** The prompt is being read, unless the answer is under way: a stream tells again how it began. */
const showReading = (text) => show("running", answer.textContent ? "answering" : text);

const tokens = (count) => `${count.toLocaleString("en")} ${count === 1 ? "token" : "tokens"}`;

/** More text. Who has not scrolled up sees the end of it. */
function append(text) {
  const atEnd = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
  answer.append(text);
  if (atEnd) answer.scrollTop = answer.scrollHeight;
}

/** Returns whether it was the last one. */
function onEvent(name, data) {
  if (name === "preparing") show("loading", data.what);
  else if (name === "started") showReading("reading the prompt");
  else if (name === "prompt") showReading(`reading the prompt: ${data.done} of ${data.total} tokens`);
  else if (name === "interrupted") show("loading", data.what);
  else if (name === "continued") {
    // A stream that is followed anew tells again of what was told before.
    if (![...notices.children].some((known) => known.textContent === data.what)) {
      notices.append(Object.assign(document.createElement("li"), { textContent: data.what }));
    }
    showReading("reading the prompt");
  } else if (name === "text") {
    if (!answer.textContent) show("running", "answering");
    append(data.text);
    figures.textContent = tokens(data.tokens);
  } else if (name === "finished") {
    show(data.status, data.status);
    const speed = data.timings.tokens_per_second;
    figures.textContent = !data.prompt_tokens ? "" :
      `${tokens(data.prompt_tokens)} of the prompt, ${tokens(data.completion_tokens)} of the answer` +
      (speed ? `, ${speed.toFixed(1)} tokens/s` : "");
    if (data.status === "failed") told.textContent = data.error;
    return true;
  }
  return false;
}

/** One question at a time. The button stays enabled: a disabled one would lose the focus. */
function hold(isHeld) {
  asking = isHeld;
  sendButton.setAttribute("aria-disabled", isHeld);
}

async function ask() {
  answer.textContent = figures.textContent = notices.textContent = told.textContent = "";
  hold(true);
  try {
    const request = await post("/shard/api/inference/submit/", bodyOf(new FormData(form)));
    running = request.id;
    card.hidden = false;
    show("pending", "asking");
    record.href = `/shard/runs/request/${running}/`;
    stopButton.hidden = false;
    card.scrollIntoView({ block: "nearest" });
    await listen(running);
  } catch (error) {
    told.textContent = error.message;
  } finally {
    const hadFocus = document.activeElement === stopButton;
    running = null;
    stopButton.hidden = true;
    hold(false);
    if (hadFocus) sendButton.focus();
    refresh();
  }
}

/** Show the answer while it comes. A connection that breaks is made anew, and goes on where the answer was. */
async function listen(id) {
  let last = "0";
  let until = Infinity;
  try {
    for (;;) {
      try {
        const response = await fetch(`/shard/api/inference/stream/${id}/`, { headers: { "Last-Event-ID": last } });
        if (!response.ok) throw new Error(await reasonOf(response));
        for await (const [name, data, received] of eventsOf(response)) {
          until = Infinity;
          last = received;
          if (onEvent(name, data)) return;
        }
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // what a broken connection looks like to fetch
      }
      if (until === Infinity) until = Date.now() + RETRY_SECONDS * 1000;
      if (Date.now() > until) throw new Error("The connection was lost. The answer goes on: see the newest requests.");
      show("loading", "the connection was lost, trying again");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  } catch (error) {
    show("failed", "not followed any more");
    throw error;
  }
}

if (form) {
  sendButton.disabled = false; // without scripts it stays so
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!asking) ask();
  });
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stopButton.addEventListener("click", () => {
    show("running", "stopping");
    post(`/shard/api/inference/cancel/${running}/`, {}).catch((error) => { told.textContent = error.message; });
  });
}
