"use strict";
// Ask a model: submit the request, follow its events, stop it.

const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const state = document.getElementById("state");
const figures = document.getElementById("figures");
const told = document.getElementById("told");
const sendButton = document.getElementById("send");
const stopButton = document.getElementById("stop");
let running = null;

/** The server-sent events of a response, one at a time: [name, data]. */
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
      if (data !== undefined) yield [pick("event: "), JSON.parse(data)];
    }
  }
}

function bodyOf(fields) {
  const parameters = {
    max_tokens: Number(fields.get("max_tokens")),
    temperature: Number(fields.get("temperature")),
    top_p: Number(fields.get("top_p")),
  };
  if (fields.get("seed")) parameters.seed = Number(fields.get("seed"));
  return { model: fields.get("model"), prompt: fields.get("prompt"), chat: fields.has("chat"), parameters };
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRF-Token": csrfToken() },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await reasonOf(response));
  return response.json();
}

function onEvent(name, data) {
  if (name === "preparing") state.textContent = data.what;
  else if (name === "started") state.textContent = "Reading the prompt";
  else if (name === "prompt") state.textContent = `Reading the prompt: ${data.done} of ${data.total} tokens`;
  else if (name === "text") {
    if (!answer.textContent) state.textContent = "Answering";
    answer.append(data.text);
    figures.textContent = `${data.tokens} tokens`;
  } else if (name === "finished") {
    state.textContent = data.status;
    const speed = data.timings.tokens_per_second;
    figures.textContent = `${data.prompt_tokens} tokens of the prompt, ${data.completion_tokens} of the answer` +
      (speed ? `, ${speed.toFixed(1)} tokens/s` : "");
    if (data.status === "failed") told.textContent = data.error;
    return true;
  }
  return false;
}

async function ask() {
  answer.textContent = figures.textContent = told.textContent = "";
  document.getElementById("answer-card").hidden = false;
  state.textContent = "Asking";
  sendButton.disabled = true;
  try {
    const request = await post("/shard/api/inference/submit/", bodyOf(new FormData(form)));
    running = request.id;
    stopButton.hidden = false;
    const response = await fetch(`/shard/api/inference/stream/${running}/`);
    if (!response.ok) throw new Error(await reasonOf(response));
    let isOver = false;
    for await (const [name, data] of eventsOf(response)) isOver = onEvent(name, data) || isOver;
    if (!isOver) throw new Error("The connection was lost. The answer goes on; find it among the newest requests.");
  } catch (error) {
    state.textContent = "failed";
    told.textContent = error.message;
  } finally {
    running = null;
    stopButton.hidden = true;
    sendButton.disabled = false;
  }
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running === null && !sendButton.disabled) ask();
  });
  form.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stopButton.addEventListener("click", () => {
    post(`/shard/api/inference/cancel/${running}/`, {}).catch((error) => { told.textContent = error.message; });
  });
}
