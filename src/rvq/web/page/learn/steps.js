const PAUSE = 140; // milliseconds between steps

/** A lesson that goes on step by step; subclasses have `reset`, `step` and `draw`. */
export class Steps {
  static run = `<button type="button" data-do="play" aria-pressed="false">Run</button>`;

  #timer = 0;
  #button;

  constructor(root) {
    this.reading = root.querySelector("output");
    this.#button = root.querySelector('[data-do="play"]');
    this.#button.addEventListener("click", () => (this.#timer ? this.rest() : this.#run()));
    root.querySelector('[data-do="step"]')?.addEventListener("click", () => this.step());
    root.querySelector('[data-do="reset"]').addEventListener("click", () => {
      this.reset();
      this.draw();
    });
  }

  #run() {
    this.#timer = setInterval(() => this.step(), PAUSE);
    this.#show("Pause");
  }

  /** Stop, until the button is pressed again. */
  rest() {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#show("Run");
  }

  #show(next) {
    this.#button.setAttribute("aria-pressed", this.#timer !== 0);
    this.#button.textContent = next;
  }
}
