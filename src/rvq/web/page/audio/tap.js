// Runs on the audio thread: passes what it hears to the page.
registerProcessor(
  "tap",
  class extends AudioWorkletProcessor {
    process([input]) {
      if (input[0]) this.port.postMessage(input[0].slice());
      return true;
    }
  },
);
