// One call: the browser's side of WS /v1/stream (docs/streaming.md). It reconnects by itself where the protocol allows
// it, with the same voice; what was said while the line was down is lost, as in any call.

// Close codes that may come without a word: the line or a replica died, the server failed, it goes away.
const AGAIN = [1006, 1011, 1012];
const LONGEST_PAUSE = 4000; // milliseconds
const ATTEMPTS = 6;

export class Call {
  // `heard` gets Float32Array and the index of its first sample; `told` gets "ready", "stats", "ended", "again", "error".
  constructor({ url, token, voice, sampleRate, heard, told }) {
    Object.assign(this, { url, token, voice, sampleRate, heard, told });
    this.failures = 0;
    this.over = false;
    this.connect();
  }

  connect() {
    this.ready = false;
    this.sent = 0;
    this.received = 0;
    this.departures = []; // [samples sent so far, when]
    this.latencies = []; // [when, milliseconds]
    this.socket = new WebSocket(this.url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () =>
      this.socket.send(
        JSON.stringify({
          type: "start",
          token: this.token,
          sample_rate: this.sampleRate,
          encoding: "pcm16",
          voice: this.voice,
          resumes: this.session ?? null,
        }),
      );
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.control(JSON.parse(data)) : this.audio(data));
    this.socket.onclose = ({ code }) => this.closed(code);
  }

  control(message) {
    if (message.type === "ready") {
      this.ready = true;
      this.session = message.session;
    }
    if (message.type === "ended") this.over = true;
    if (message.type === "error") this.error = message;
    else this.told(message.type, message);
  }

  closed(code) {
    if (this.over) return;
    const { retry, detail } = this.error ?? { retry: AGAIN.includes(code), detail: "the connection broke" };
    this.error = undefined;
    this.ready = false;
    if (!retry || ++this.failures > ATTEMPTS) {
      this.over = true;
      this.told("error", { detail });
      return;
    }
    if (this.ending) { // nothing more would be said, and the tail is lost
      this.over = true;
      this.told("ended", {});
      return;
    }
    this.told("again", { detail });
    const pause = Math.min(LONGEST_PAUSE, 100 * 2 ** this.failures) * (0.5 + Math.random() / 2);
    setTimeout(() => this.over || this.connect(), pause);
  }

  // Takes Float32Array in [-1, 1]; drops it while the line is down.
  send(samples) {
    if (!this.ready || this.ending) return;
    const pcm = new DataView(new ArrayBuffer(2 * samples.length));
    samples.forEach((sample, index) =>
      pcm.setInt16(2 * index, Math.max(-32768, Math.min(32767, Math.round(sample * 32768))), true),
    );
    this.sent += samples.length;
    this.departures.push([this.sent, performance.now()]);
    this.socket.send(pcm.buffer);
  }

  audio(buffer) {
    this.failures = 0; // not before: a call may get ready and be lost each time
    const view = new DataView(buffer);
    const samples = new Float32Array(buffer.byteLength / 2);
    for (let index = 0; index < samples.length; index++) samples[index] = view.getInt16(2 * index, true) / 32768;
    this.heard(samples, this.received);
    this.received += samples.length;
    const now = performance.now();
    while (this.departures.length && this.departures[0][0] <= this.received) {
      this.latencies.push([now, now - this.departures.shift()[1]]);
    }
  }

  // The median latency of the last second in milliseconds, or undefined.
  latency() {
    const since = performance.now() - 1000;
    this.latencies = this.latencies.filter(([when]) => when > since);
    const sorted = this.latencies.map(([, latency]) => latency).sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  }

  end() {
    this.ending = true;
    if (this.ready) this.socket.send(JSON.stringify({ type: "end" }));
    else {
      this.over = true;
      this.socket.close();
      this.told("ended", {});
    }
  }
}
