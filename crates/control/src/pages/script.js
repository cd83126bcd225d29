// What pages do beyond links and forms: regions that move, copying, and uploads with a progress bar.
"use strict";

for (const region of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(region.dataset.live);
  const show = (event) => { region.innerHTML = event.data; };
  source.onmessage = show;
  source.addEventListener("last", (event) => { show(event); source.close(); });
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const field = document.querySelector(button.dataset.copy);
    const said = button.parentElement.querySelector("[data-copied]");
    try {
      await navigator.clipboard.writeText(field.value);
      said.textContent = "Copied";
    } catch {
      // Without https a browser has no clipboard for pages: the text is selected for the keyboard.
      field.focus();
      field.select();
      said.textContent = "Selected: press Ctrl+C";
    }
  });
}

function reportOf(answer) {
  const list = document.createElement("div");
  const line = (text) => { const p = document.createElement("p"); p.textContent = text; list.append(p); };
  line(answer.message || answer.detail || "The file was refused.");
  if (answer.batchId) { line("Batch " + answer.batchId); }
  if (answer.dryRun) {
    line(answer.batchSize + " rows: " + answer.rowsToApply + " to apply, " + answer.skippedRows + " skipped, "
      + answer.failedRows + " would fail" + (answer.truncated ? "; the first of these:" : ""));
    for (const error of answer.errors || []) {
      line("Line " + error.line + (error.column ? ", " + error.column : "") + ": " + error.reason);
    }
  }
  return list;
}

for (const form of document.querySelectorAll("[data-upload]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = new FormData(form);
    const bar = form.querySelector("progress");
    const report = form.querySelector(".report");
    const button = form.querySelector("button");
    const query = new URLSearchParams({ version: fields.get("version"), dryRun: fields.get("dryRun") || "false" });
    const request = new XMLHttpRequest();
    request.open("POST", form.dataset.upload + "?" + query);
    request.setRequestHeader("X-CSRF-Token", form.dataset.csrf);
    // A retry of the same choice is the same batch.
    if (fields.get("dryRun") !== "true") {
      form.dataset.key ||= crypto.getRandomValues(new Uint32Array(4)).join("-");
      request.setRequestHeader("Idempotency-Key", form.dataset.key);
    }
    request.upload.onprogress = (step) => { if (step.lengthComputable) { bar.value = 100 * step.loaded / step.total; } };
    const done = (answer, fine) => {
      report.replaceChildren(reportOf(answer));
      report.classList.toggle("error", !fine);
      button.disabled = false;
      bar.hidden = true;
      if (fine) { delete form.dataset.key; }
    };
    request.onload = () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { answer.message = "The server answered " + request.status; }
      done(answer, request.status === 200);
    };
    request.onerror = () => done({ message: "The upload broke off; uploading again goes on with the same batch." }, false);
    report.textContent = "";
    bar.value = 0;
    bar.hidden = false;
    button.disabled = true;
    request.send(fields.get("file"));
  });
  form.addEventListener("change", () => { delete form.dataset.key; });
}
