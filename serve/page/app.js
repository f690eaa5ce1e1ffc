// The page: a microphone or a recording in, a call to the server, the anonymous voice out, both drawn as they pass.

import { Call } from "./call.js";
import { Spectrogram } from "./drawing.js";

const ORANGE = [240, 166, 87];
const TEAL = [92, 196, 196];
const SOUND_STARTS_WITHIN = 10_000; // milliseconds
const LONGEST_RECORDING = 1800; // seconds that are kept for saving

const element = (id) => document.getElementById(id);
const talk = element("talk");
let running; // what runs now, or undefined
let kept = { chunks: [], sampleRate: 0 }; // what came back, for saving

start();

async function start() {
  talk.addEventListener("click", () => (running ? finish() : run(microphone)));
  element("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = "";
    if (file && !running) run((context) => recording(context, file));
  });
  element("save").addEventListener("click", save);
  element("listen").addEventListener("change", ({ target }) => {
    if (running) running.volume.gain.value = target.checked ? 1 : 0;
  });
  try {
    const about = await (await fetch("v1/about")).json();
    for (const name of about.voices) element("voice").append(new Option(name[0].toUpperCase() + name.slice(1), name));
    element("token-field").hidden = !about.token_required;
    element("about").textContent = `This server anonymizes with “${about.anonymizer}”, calls of up to ${Math.round(about.session_seconds / 60)} minutes. ${about.note}`;
  } catch {
    say("The server does not answer. Load the page again in a moment.", true);
  }
}

// Opens the call and connects a source to it. `open(context)` gives { node, detail, stop, done }.
async function run(open) {
  running = { starting: true };
  talk.disabled = true;
  const context = new AudioContext({ latencyHint: "interactive" });
  let source;
  try {
    await Promise.all(["capture", "playback"].map((name) => context.audioWorklet.addModule(`page/${name}.js`)));
    source = await open(context);
    await begins(context);
    const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const playback = new AudioWorkletNode(context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    const volume = new GainNode(context, { gain: element("listen").checked ? 1 : 0 });
    playback.connect(volume).connect(context.destination);
    const pictures = {
      source: new Spectrogram(element("source"), ORANGE, context.sampleRate),
      nobody: new Spectrogram(element("nobody"), TEAL, context.sampleRate),
    };
    kept = { chunks: [], sampleRate: context.sampleRate, samples: 0 };
    element("save").disabled = true;
    element("source-detail").textContent = source.detail;
    const call = new Call({
      url: new URL("v1/stream", document.baseURI).href.replace(/^http/, "ws"),
      token: element("token").value,
      voice: chosenVoice(),
      sampleRate: context.sampleRate,
      heard(samples) {
        playback.port.postMessage(samples);
        pictures.nobody.push(samples);
        if (kept.samples < LONGEST_RECORDING * kept.sampleRate) {
          kept.chunks.push(samples);
          kept.samples += samples.length;
          element("save").disabled = false;
        }
      },
      told: (type, message) => told(type, message, source),
    });
    capture.port.onmessage = ({ data }) => {
      if (!call.ready || call.ending) return;
      pictures.source.push(data);
      call.send(data);
    };
    playback.port.onmessage = ({ data }) => (element("buffered").textContent = `${Math.round(1000 * data)} ms`);
    source.node.connect(capture);
    source.done?.then(() => finish());
    const timer = setInterval(measure, 250);
    running = { call, context, source, volume, timer };
    show(true);
  } catch (fault) {
    source?.stop();
    await context.close();
    running = undefined;
    const denied = fault.name === "NotAllowedError";
    say(denied ? "The microphone is not allowed for this page. Allow it in the address bar, or choose a recording." : fault.message, true);
  } finally {
    talk.disabled = false;
  }
}

// Waits until the sound runs; some browsers wait for ever where there is nothing to hear it with.
function begins(context) {
  const late = new Promise((_, reject) =>
    setTimeout(() => reject(new Error("The browser's sound does not start: is there a loudspeaker or headphones?")), SOUND_STARTS_WITHIN),
  );
  return Promise.race([context.resume(), late]);
}

// A seed of the page's own keeps a random voice when a broken call is taken up again. 53 bits fit a JSON number.
function chosenVoice() {
  const name = element("voice").value;
  if (name) return { kind: "named", name };
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return { kind: "seed", seed: (high & 0x1fffff) * 2 ** 32 + low };
}

async function microphone(context) {
  if (!navigator.mediaDevices) throw new Error("Browsers give the microphone to https pages and to localhost only.");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: true, noiseSuppression: false, autoGainControl: false },
  });
  return {
    node: new MediaStreamAudioSourceNode(context, { mediaStream: stream }),
    detail: "what the microphone hears",
    stop: () => stream.getTracks().forEach((track) => track.stop()),
  };
}

async function recording(context, file) {
  let buffer;
  try {
    buffer = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`This browser cannot read ${file.name}. WAV, MP3, Ogg and FLAC usually work.`);
  }
  const node = new AudioBufferSourceNode(context, { buffer });
  const done = new Promise((resolve) => (node.onended = resolve));
  return { node, done, detail: file.name, begin: () => node.start(), stop: () => node.disconnect() };
}

function told(type, message, source) {
  if (type === "ready") {
    source.begin?.();
    source.begin = undefined;
    element("algorithmic").textContent = `${Math.round(message.latency_ms)} ms`;
    say(source.done ? "The recording passes as a call would." : "You are on. Speak.");
  } else if (type === "again") say(`Interrupted: ${message.detail}. Connecting again…`);
  else if (type === "ended") close("Done. Nothing was stored on the server.");
  else if (type === "error") close(`Stopped: ${message.detail}.`, true);
}

function finish() {
  if (!running?.call || running.call.ending) return;
  say("Waiting for the last words…");
  running.source.stop();
  running.call.end();
}

async function close(text, wrong = false) {
  if (!running?.call) return;
  const { context, source, timer } = running;
  measure();
  clearInterval(timer);
  running = undefined;
  source.stop();
  say(text, wrong);
  show(false);
  await new Promise((resolve) => setTimeout(resolve, 400)); // let the cushion play out
  await context.close();
}

function show(live) {
  talk.classList.toggle("live", live);
  element("talk-text").textContent = live ? "Stop" : "Start talking";
  for (const id of ["voice", "token", "file"]) element(id).disabled = live;
}

function measure() {
  const { call } = running;
  const latency = call.latency();
  if (latency !== undefined) element("latency").textContent = `${Math.round(latency)} ms`;
  element("seconds").textContent = `${(kept.samples / kept.sampleRate).toFixed(1)} s`;
}

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(kept));
  link.download = "anonymous.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// A WAV file, 16 bits, mono.
function wav({ chunks, sampleRate, samples }) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const text = (offset, letters) => [...letters].forEach((letter, index) => view.setUint8(offset + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples, true);
  let offset = 44;
  for (const chunk of chunks) {
    for (const sample of chunk) {
      view.setInt16(offset, Math.max(-32768, Math.min(32767, Math.round(sample * 32768))), true);
      offset += 2;
    }
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}
