// Runs on the audio thread: plays what arrives, behind a cushion of 60 ms that grows again whenever it has run dry.
const CUSHION = 0.06; // seconds
const LONGEST = 0.5; // seconds; what waits longer is dropped, so that a stall does not delay the rest of the call
const REPORT_EVERY = 0.25; // seconds

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunks = [];
    this.offset = 0; // samples of the first chunk that are played
    this.waiting = 0;
    this.playing = false;
    this.reported = 0;
    this.port.onmessage = ({ data }) => {
      this.chunks.push(data);
      this.waiting += data.length;
      while (this.waiting > LONGEST * sampleRate && this.chunks.length > 1) {
        this.waiting -= this.chunks.shift().length - this.offset;
        this.offset = 0;
      }
    };
  }

  process(_, [output]) {
    const channel = output[0];
    if (!this.playing && this.waiting >= CUSHION * sampleRate) this.playing = true;
    for (let index = 0; this.playing && index < channel.length; index++) {
      if (this.chunks.length === 0) {
        this.playing = false;
        break;
      }
      channel[index] = this.chunks[0][this.offset++];
      this.waiting--;
      if (this.offset === this.chunks[0].length) {
        this.chunks.shift();
        this.offset = 0;
      }
    }
    if (currentTime - this.reported > REPORT_EVERY) {
      this.reported = currentTime;
      this.port.postMessage(this.waiting / sampleRate);
    }
    return true;
  }
}

registerProcessor("playback", Playback);
