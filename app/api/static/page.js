// What the pages do beyond showing: parts that stay up to date, a question before something is removed, and the
// streamed answer. Without scripts everything but streaming works.
"use strict";

const live = document.getElementById("live");
let timer = 0;

async function refresh() {
  const typing = live.contains(document.activeElement);
  if (!document.hidden && !typing) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById("live");
        if (fresh && !live.contains(document.activeElement)) live.replaceChildren(...fresh.childNodes);
      }
    } catch {
      // The server is away for a moment; the next turn tries again.
    }
  }
  timer = setTimeout(refresh, Number(live.dataset.refresh) * 1000);
}

if (live) timer = setTimeout(refresh, Number(live.dataset.refresh) * 1000);

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

const ask = document.getElementById("ask");
if (ask) {
  const part = (name) => document.getElementById(name);
  const [send, stop, what, answer, figures] = ["send", "stop", "what", "answer", "figures"].map(part);
  let running = null;

  const post = (path, body) =>
    fetch(path, { method: "POST", headers: { "Content-Type": "application/json", Accept: "application/json" }, body: JSON.stringify(body) });

  async function problem(response) {
    try {
      const { error } = await response.json();
      return `${error.message} ${error.advice || ""}`.trim();
    } catch {
      return `The server answered ${response.status}.`;
    }
  }

  function over(text) {
    running = null;
    send.disabled = false;
    stop.disabled = true;
    what.textContent = text;
  }

  const shown = {
    preparing: (told) => { what.textContent = told.what; },
    started: () => { what.textContent = "Reading the prompt"; },
    prompt: (told) => { what.textContent = `Reading the prompt: ${told.done} of ${told.total} tokens`; },
    text: (told) => {
      answer.append(told.text);
      answer.scrollTop = answer.scrollHeight;
      what.textContent = `${told.tokens} tokens`;
    },
    finished: (request) => {
      const speed = request.timings.tokens_per_second;
      figures.textContent = [`Request ${request.id}`, `${request.completion_tokens} tokens`, speed ? `${speed.toFixed(1)} tokens/s` : "", request.finish_reason || ""].filter(Boolean).join(" · ");
      over(request.error || "");
      what.classList.toggle("problem", request.status === "failed");
    },
  };

  async function follow(id) {
    const response = await fetch(`/shard/api/inference/stream/${id}/`);
    if (!response.ok) throw new Error(await problem(response));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += value;
      const pieces = rest.split("\n\n");
      rest = pieces.pop();
      for (const piece of pieces) {
        const name = /^event: (.*)$/m.exec(piece);
        const data = /^data: (.*)$/m.exec(piece);
        if (name && data && shown[name[1]]) shown[name[1]](JSON.parse(data[1]));
      }
    }
    if (running !== null) throw new Error("The connection ended before the answer did.");
  }

  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = new FormData(ask);
    send.disabled = true;
    what.classList.remove("problem");
    what.textContent = "Asking";
    answer.textContent = figures.textContent = "";
    part("answer-section").hidden = false;
    try {
      const response = await post("/shard/api/inference/submit/", {
        model: given.get("model"),
        prompt: given.get("prompt"),
        chat: given.get("chat") !== null,
        parameters: { max_tokens: Number(given.get("max_tokens")) || 256, temperature: Number(given.get("temperature")) || 0 },
      });
      if (!response.ok) throw new Error(await problem(response));
      running = (await response.json()).id;
      stop.disabled = false;
      await follow(running);
    } catch (error) {
      over(error.message);
      what.classList.add("problem");
    }
  });

  stop.addEventListener("click", () => {
    if (running !== null) post(`/shard/api/inference/cancel/${running}/`, {});
    stop.disabled = true;
  });

  ask.elements.prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !send.disabled) ask.requestSubmit();
  });
}
