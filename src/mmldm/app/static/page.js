// The page's own behaviour: results that arrive do not disturb what plays, playheads follow the sound, the pad
// notes when it is tapped. Everything is found by class at the moment of an event: gradio draws when it likes.
(() => {
  "use strict";
  const KEPT = 6; // batches of one tab that stay on it; the history has all

  let pressed = null, when = 0; // the button that was clicked last, and its time

  // A result that arrives is put before the others, whose players go on.
  function deliver() {
    for (const box of document.querySelectorAll(".mm-delivery .mm-batch")) {
      const shelf = document.getElementById(box.closest("[data-shelf]").dataset.shelf);
      if (!shelf) continue;
      shelf.prepend(box);
      pressed = null; // what was asked for is there: the next click asks again
      const batches = [...shelf.children];
      for (const old of batches.slice(KEPT)) {
        if (![...old.querySelectorAll("video")].some((v) => !v.paused)) old.remove();
      }
    }
  }
  new MutationObserver(deliver).observe(document, { childList: true, subtree: true });

  // Gradio's text fields that hold what our buttons say.
  function put(id, value) {
    const field = document.querySelector(`#${id} textarea, #${id} input`);
    if (!field) return;
    const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // One film is heard at a time, and its playhead moves.
  document.addEventListener("play", (event) => {
    if (!event.target.closest(".mm-card")) return;
    for (const other of document.querySelectorAll(".mm-card video")) {
      if (other !== event.target) other.pause();
    }
    const follow = () => {
      head(event.target);
      if (!event.target.paused) requestAnimationFrame(follow);
    };
    follow();
  }, true);
  for (const kind of ["seeked", "pause", "loadedmetadata"]) {
    document.addEventListener(kind, (event) => {
      if (event.target.closest && event.target.closest(".mm-card")) head(event.target);
    }, true);
  }
  function head(video) {
    const line = video.closest(".mm-card").querySelector(".mm-head");
    const share = video.duration ? video.currentTime / video.duration : 0;
    line.style.left = `calc(${(100 * share).toFixed(2)}% - ${share.toFixed(2)} * 2px)`;
  }

  document.addEventListener("click", (event) => {
    const strip = event.target.closest(".mm-strip");
    const copy = event.target.closest(".mm-copy");
    const use = event.target.closest(".mm-use");
    if (strip) {
      const video = strip.closest(".mm-card").querySelector("video");
      const box = strip.getBoundingClientRect();
      if (video.duration) video.currentTime = video.duration * (event.clientX - box.left) / box.width;
    } else if (copy) {
      const done = () => { copy.textContent = "copied"; setTimeout(() => { copy.textContent = "copy"; }, 1500); };
      if (navigator.clipboard) navigator.clipboard.writeText(copy.dataset.copy).then(done, () => {});
    } else if (use) {
      window.dispatchEvent(new CustomEvent("mm-use", { detail: use.dataset.use }));
    }
  });

  // Clicks on one button in a moment are one request: the server would make the second after the first.
  const MOMENT = 600; // ms
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("button.primary");
    const again = button && button === pressed && performance.now() - when < MOMENT;
    if (again) {
      event.stopImmediatePropagation();
      event.preventDefault();
    } else {
      [pressed, when] = [button, performance.now()];
    }
  }, true);

  // The pad.
  const taps = [];
  let first = 0, sounds = {}, context = null;
  const SILENCE = 3000; // ms without a tap, after which a new rhythm begins
  const LEAD = 0.15; // s before the first tap

  function instrument() {
    const chosen = document.querySelector(".mm-pad-row input[name=mm-instrument]:checked");
    return chosen ? chosen.value : "drum";
  }
  async function ready() {
    if (!context) context = new AudioContext();
    if (context.state === "suspended") context.resume();
    for (const input of document.querySelectorAll("input[name=mm-instrument]")) {
      if (!(input.value in sounds)) {
        sounds[input.value] = null;
        const answer = await fetch(`taps/${input.value}.wav`);
        sounds[input.value] = await context.decodeAudioData(await answer.arrayBuffer());
      }
    }
  }
  function sound(when) {
    const buffer = sounds[instrument()];
    if (!context || !buffer) return;
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.start(when);
  }
  function tap(pad) {
    const now = performance.now();
    ready();
    sound(0);
    if (!taps.length || now - first - 1000 * (taps[taps.length - 1] - LEAD) > SILENCE) {
      taps.length = 0;
      first = now;
    }
    taps.push(LEAD + (now - first) / 1000);
    pad.classList.add("mm-hit");
    setTimeout(() => pad.classList.remove("mm-hit"), 90);
    show();
  }
  function show() {
    const strip = document.querySelector(".mm-taps");
    const length = Math.max(1.6, (taps[taps.length - 1] || 0) + 0.6);
    strip.replaceChildren(...taps.map((time) => {
      const mark = document.createElement("span");
      mark.style.left = `${100 * time / length}%`;
      return mark;
    }));
    const count = document.querySelector(".mm-count");
    count.textContent = taps.length
      ? `${taps.length} tap${taps.length > 1 ? "s" : ""}, ${length.toFixed(1)} s` : "nothing tapped yet";
    put("mm-taps", JSON.stringify({ instrument: instrument(), taps: taps.map((t) => +t.toFixed(4)) }));
  }
  document.addEventListener("pointerdown", (event) => {
    const pad = event.target.closest(".mm-pad");
    if (pad) tap(pad);
  });
  document.addEventListener("keydown", (event) => {
    const pad = event.target.closest(".mm-pad");
    if (pad && !event.repeat && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      tap(pad);
    }
  });
  document.addEventListener("pointerover", (event) => {
    // The sounds are there before the first tap.
    if (event.target.closest && event.target.closest(".mm-pad")) ready();
  });
  document.addEventListener("change", (event) => {
    if (event.target.name === "mm-instrument") { ready(); show(); }
  });
  document.addEventListener("click", async (event) => {
    if (event.target.closest(".mm-clear")) { taps.length = 0; show(); }
    if (event.target.closest(".mm-hear")) {
      await ready();
      for (const time of taps) sound(context.currentTime + time);
    }
  });
})();
