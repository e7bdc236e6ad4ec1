// Starts the page: sections, recordings, playback, keys.

import { Player } from "./audio/player.js";
import { Recorder } from "./audio/recorder.js";
import { Clip } from "./clip.js";
import { connect } from "./codec/backend.js";
import { Inside } from "./inside.js";
import { Listen } from "./listen.js";

const $ = (id) => document.getElementById(id);
const SECTIONS = ["listen", "inside", "learn"];

const app = {
  backend: null,
  player: null,
  asked: 0, // how often something was asked to sound, on any page: only the last may
  clips: new Map(), // of the shipped samples, by name

  /** Tell what is going on, or what went wrong. */
  say(text, wrong = false) {
    $("message").textContent = text;
    $("message").classList.toggle("wrong", wrong);
  },

  /** A shipped sample, encoded when first asked for. */
  async sample(id) {
    if (!app.clips.has(id)) {
      const { title } = app.backend.about.samples.find((sample) => sample.id === id);
      app.clips.set(id, new Clip(app.backend, title, await app.backend.encodeSample(id)));
    }
    return app.clips.get(id);
  },
};

let listen, inside, learn;
let dropRecording = () => {};

/** The lessons need nothing else, and nothing waits for them. */
async function lessons() {
  const { Learn } = await import("./learn/learn.js");
  learn ??= new Learn();
  return learn;
}

function showSection() {
  const wanted = SECTIONS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "listen";
  for (const name of SECTIONS) {
    $(`page-${name}`).hidden = name !== wanted;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === wanted) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("transport").hidden = wanted === "learn";
  document.body.dataset.section = wanted;
  window.scrollTo(0, 0);
  if (wanted === "learn") lessons().then((learn) => learn.draw(true));
  if (wanted === "listen") listen?.resume();
  if (wanted === "inside") inside?.draw();
}
addEventListener("hashchange", showSection);
showSection();

// Light and dark: the system's choice until the button is pressed.
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function redraw() {
  listen?.draw();
  inside?.draw();
  learn?.draw(true);
}

/** Make a recording the one that all pages are about. */
let opening = 0;
async function open(make, title) {
  const turn = ++opening;
  dropRecording();
  app.say(`Encoding ${title}…`);
  document.body.dataset.clip = "";
  try {
    const clip = await make();
    if (turn !== opening) return;
    app.say("");
    app.player.pause();
    await listen.open(clip);
    $("position").max = clip.seconds;
    const cut = clip.secondsRead > clip.seconds + 0.1;
    $("clip-name").textContent =
      `${title}, ${clip.seconds.toFixed(1)} s, mono at ${app.backend.rate / 1000} kHz` +
      (cut ? ` (the first part of ${clip.secondsRead.toFixed(0)} s)` : "");
    await painted(); // what is heard first comes first, then all that follows
    if (turn !== opening) return;
    await inside.open(clip);
    if (turn !== opening) return;
    document.body.dataset.clip = title;
    await lessons();
    listen.prefetch();
  } catch (error) {
    if (turn === opening) app.say(error.message, true);
  }
}

const painted = () =>
  new Promise((done) => {
    if (document.hidden) done();
    else requestAnimationFrame(() => setTimeout(done));
  });

function press(button) {
  for (const other of $("sources").querySelectorAll("button")) {
    other.setAttribute("aria-pressed", other === button);
  }
}

function openFile(file) {
  press($("upload"));
  const encoded = async () => new Clip(app.backend, file.name, await app.backend.encodeFile(file));
  return open(encoded, file.name);
}

function addSources() {
  $("samples").append(
    ...app.backend.about.samples.map(({ id, title, note }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.sample = id;
      button.innerHTML = "<strong></strong><small></small>";
      button.firstChild.textContent = title;
      button.lastChild.textContent = note;
      button.addEventListener("click", () => {
        press(button);
        open(() => app.sample(id), title);
      });
      return button;
    }),
  );
  $("upload").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) openFile($("file").files[0]);
    $("file").value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
  });
  addRecording();
}

function addRecording() {
  const button = $("record");
  const label = button.querySelector("strong");
  let recorder = null;
  let clock = 0;
  function end() {
    clearInterval(clock);
    const done = recorder;
    recorder = null;
    button.classList.remove("recording");
    label.textContent = "Record";
    return done;
  }
  async function stop() {
    const done = end();
    const encoded = async () =>
      new Clip(app.backend, "Your recording", await app.backend.encodeSamples(await done.stop()));
    await open(encoded, "Your recording");
  }
  dropRecording = () => {
    const running = button.classList.contains("recording"); // or the browser still asks, see below
    const done = end();
    if (running) done.close();
  };
  button.addEventListener("click", async () => {
    if (recorder) return stop();
    app.player.pause();
    press(button);
    const mine = new Recorder(app.backend.rate, (level) => button.style.setProperty("--level", level));
    recorder = mine;
    button.disabled = true; // until the browser has asked for the microphone
    try {
      await mine.start();
    } catch (error) {
      if (recorder !== mine) return;
      recorder = null;
      return app.say(error.message, true);
    } finally {
      button.disabled = false;
    }
    if (recorder !== mine) return mine.close(); // something else was chosen since
    app.say("Recording. Press again to stop.");
    button.classList.add("recording");
    const began = performance.now();
    const tick = () => {
      const seconds = (performance.now() - began) / 1000;
      label.textContent = `Stop ${seconds.toFixed(0)} s`;
      if (seconds >= app.backend.about.max_seconds) stop();
    };
    clock = setInterval(tick, 250);
    tick();
  });
}

function addTransport() {
  const { player } = app;
  const toggle = () => (player.playing ? player.pause() : player.play());
  $("play").addEventListener("click", toggle);
  $("position").addEventListener("input", () => player.seek(Number($("position").value)));
  $("loop").addEventListener("change", () => {
    player.loop = $("loop").checked;
    player.seek(player.position);
  });
  const show = () => {
    const { position, duration } = player;
    const time = `${position.toFixed(1)} s`;
    $("position").value = position;
    $("position").setAttribute("aria-valuetext", time);
    $("time").textContent = `${time} of ${duration.toFixed(1)} s`;
    const share = `${duration ? (100 * position) / duration : 0}%`;
    document.documentElement.style.setProperty("--position", share);
  };
  player.addEventListener("change", () => {
    $("play").classList.toggle("playing", player.playing);
    $("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
    show();
    if (player.playing) requestAnimationFrame(frame);
  });
  function frame() {
    show();
    if (player.playing) requestAnimationFrame(frame);
  }
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("transport").hidden) return;
    if (/^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === " " && event.target.tagName !== "BUTTON" && event.target.type !== "checkbox") {
      event.preventDefault();
      toggle();
    } else if (/^[1-9]$/.test(event.key) && document.body.dataset.section === "listen") {
      listen.key(Number(event.key));
    }
  });
}

try {
  app.backend = await connect();
  const { model, mode } = app.backend.about;
  const where = mode === "browser" ? "in this browser" : "on this machine";
  $("where").textContent = `${model.name} · ${model.hash.slice(0, 8)} · runs ${where}; nothing is sent anywhere else`;
  document.documentElement.style.setProperty("--n", model.n_codebooks);
  app.player = new Player(app.backend.rate);
  listen = new Listen(app);
  inside = new Inside(app);
  addSources();
  addTransport();
  $("samples").querySelector("button").click();
} catch (error) {
  app.say(error.message, true);
}
