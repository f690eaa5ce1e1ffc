// A spectrogram that scrolls: samples in, columns of a canvas out.

const SIZE = 512; // samples at 16 kHz: 32 ms
const HOP = 160; // samples at 16 kHz: 10 ms, two pixels
const RATE = 16000;
const FLOOR = -85; // decibels below full scale that are drawn black
const CEILING = -25;

const window_ = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));

export class Spectrogram {
  constructor(canvas, [red, green, blue], sampleRate) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: false });
    this.shades = Array.from({ length: 256 }, (_, level) => {
      const part = level / 255;
      const white = Math.max(0, part - 0.75) * 3; // the loudest goes towards white
      return [red, green, blue].map((value) => Math.min(255, value * part ** 1.3 * 1.15 + 255 * white * 0.35));
    });
    this.sampleRate = sampleRate;
    this.history = new Float32Array(SIZE);
    this.phase = 0;
    this.last = 0;
    this.sinceHop = 0;
    this.column = this.context.createImageData(2, canvas.height);
    this.clear();
  }

  clear() {
    this.context.fillStyle = "#0c1015";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  push(samples) {
    // Linear interpolation to 16 kHz is enough for a picture.
    const step = this.sampleRate / RATE;
    let columns = 0;
    for (const sample of samples) {
      this.phase += 1;
      while (this.phase >= step) {
        this.phase -= step;
        const part = Math.min(1, this.phase);
        this.history.copyWithin(0, 1);
        this.history[SIZE - 1] = this.last * part + sample * (1 - part);
        if (++this.sinceHop === HOP) {
          this.sinceHop = 0;
          this.draw();
          columns++;
        }
      }
      this.last = sample;
    }
    return columns;
  }

  draw() {
    const { canvas, context, column } = this;
    const levels = spectrum(this.history);
    for (let y = 0; y < canvas.height; y++) {
      const bin = Math.floor(((canvas.height - 1 - y) / canvas.height) * levels.length);
      const level = Math.max(0, Math.min(255, Math.round((255 * (levels[bin] - FLOOR)) / (CEILING - FLOOR))));
      const [red, green, blue] = this.shades[level];
      for (const x of [0, 1]) column.data.set([red + 12, green + 16, blue + 21, 255], 4 * (2 * y + x));
    }
    context.drawImage(canvas, -2, 0);
    context.putImageData(column, canvas.width - 2, 0);
  }
}

// Decibels below full scale in SIZE / 2 bins, by a radix-2 Fourier transform.
export function spectrum(samples) {
  const real = new Float32Array(SIZE);
  const imaginary = new Float32Array(SIZE);
  for (let index = 0, reversed = 0; index < SIZE; index++) {
    real[reversed] = samples[index] * window_[index];
    let bit = SIZE >> 1;
    while (reversed & bit) {
      reversed ^= bit;
      bit >>= 1;
    }
    reversed |= bit;
  }
  for (let size = 2; size <= SIZE; size *= 2) {
    const angle = (-2 * Math.PI) / size;
    for (let start = 0; start < SIZE; start += size) {
      for (let k = 0; k < size / 2; k++) {
        const cosine = Math.cos(angle * k);
        const sine = Math.sin(angle * k);
        const a = start + k;
        const b = a + size / 2;
        const re = real[b] * cosine - imaginary[b] * sine;
        const im = real[b] * sine + imaginary[b] * cosine;
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
  return Float32Array.from({ length: SIZE / 2 }, (_, bin) => {
    const power = (real[bin] ** 2 + imaginary[bin] ** 2) / (SIZE / 4) ** 2;
    return 10 * Math.log10(power + 1e-12);
  });
}
