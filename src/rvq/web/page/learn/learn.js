// The Learn page: lessons below each other, drawn when seen.

import { Bits } from "./bits.js";
import { Cells } from "./cells.js";
import { Dead } from "./dead.js";
import { Grid } from "./grid.js";
import { Learning } from "./learning.js";
import { points } from "./points.js";
import { Tree } from "./tree.js";
import { Weighted } from "./weighted.js";

const LESSONS = [Grid, Cells, Weighted, Tree, Learning, Dead, Bits];

export class Learn {
  #seen;

  constructor() {
    const home = document.getElementById("lessons");
    this.lessons = LESSONS.map((Lesson, i) => {
      const article = document.createElement("article");
      article.className = "lesson";
      article.id = `lesson-${Lesson.id}`;
      article.innerHTML = `<div><h2><span>${i + 1} of ${LESSONS.length}</span>${Lesson.title}</h2>${Lesson.text}
        <div class="controls">${Lesson.controls}</div><output class="reading" aria-live="polite"></output></div>
        <div>${Lesson.figure}</div>`;
      home.append(article);
      const lesson = new Lesson(article);
      lesson.article = article;
      return lesson;
    });
    this.#seen = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const lesson = this.lessons.find(({ article }) => article === target);
        lesson.seen = isIntersecting;
        if (isIntersecting) lesson.draw();
        else lesson.rest?.();
      }
    });
    for (const { article } of this.lessons) this.#seen.observe(article);
    points.addEventListener("change", () => {
      this.lessons.forEach((lesson) => lesson.moved?.());
      this.draw();
    });
  }

  draw(all = false) {
    for (const lesson of this.lessons) if (all || lesson.seen) lesson.draw();
  }
}
