/* The layers of SEANets for one instruction set; see `product.h`.
 *
 * Steps lie one after the other with their channels side by side, so that the steps under a kernel
 * are a row of a matrix as they are, and the rows of neighbouring steps overlap: a convolution is a
 * matrix product, and nothing is copied for it.
 */
TARGET static void FN(elu)(float *y, const float *x, long n)
{
    for (long i = 0; i < n; i += LANES) {
        const VEC v = LOAD(x + i), zero = SET1(0.0f);
        STORE(y + i, MOST(v, zero) + (FN(exp)(LEAST(v, zero)) - SET1(1.0f)));
    }
}

/* A convolution of `n` steps of `from` to `to`; returns how many come out. Its context lies in
 * `past [inputs][context]`. */
TARGET static long FN(convolve)(const Convolution *l, int started, float *past, const float *from,
                                long n, float *to, float *seen)
{
    const long inputs = l->inputs, context = l->kernel - l->stride, columns = l->matrix.padded;
    const long rows = (n + l->stride - 1) / l->stride;
    if (context || l->elu) {
        float *x = seen + context * inputs;
        if (l->elu)
            FN(elu)(x, from, n * inputs);
        else
            memcpy(x, from, n * inputs * sizeof *x);
        fill_context(l, started, past, seen, n);
        from = seen;
    }
    if (l->add)
        for (long row = 0; row < rows; row++)
            for (long c = 0; c < columns; c += LANES)
                STORE(to + row * columns + c, LOAD(to + row * columns + c) + LOAD(l->matrix.bias + c));
    FN(product)(&l->matrix, from, l->stride * inputs, rows, l->add ? to : l->matrix.bias,
                l->add ? columns : 0, to, columns);
    return l->up == l->stride ? n : rows * l->up;
}

TARGET INLINE VEC FN(sigmoid)(VEC x)
{
    return SET1(1.0f) / (SET1(1.0f) + FN(exp)(-x));
}

TARGET INLINE VEC FN(tanh)(VEC x)
{
    return SET1(1.0f) - SET1(2.0f) / (SET1(1.0f) + FN(exp)(x + x));
}

/* Adds to the gates of one step what the step before says, `[4 * width]`. The matrix hardly fits
 * into a cache; read forwards and backwards in turn, half of it is still there. */
TARGET INLINE void FN(recall)(const int half, const Matrix *m, const float *hidden, float *gates,
                              int backwards)
{
    const long size = half ? 2 : 4, step = 4 * PANEL, n = m->padded / step;
    for (long i = 0; i < n; i++) {
        const long o = (backwards ? n - 1 - i : i) * step;
#pragma GCC unroll 4
        for (int part = 0; part < step / (8 * LANES); part++) {
            const long at = o + part * 8 * LANES, panel = at / PANEL * PANEL;
            const char *w = (const char *)m->panels + (panel * m->k + at - panel) * size;
            FN(tile)(1, 8, half, hidden, 0, m->k, w, gates + at, 0, gates + at, 0);
        }
    }
}

/* An LSTM on `x [n][width]` in place, its input added to its output. `past [2][n_layers][width]`
 * holds hidden states and cells. */
TARGET static void FN(recur)(const Recurrence *l, float *past, float *x, long n, float *seen,
                             float *gates)
{
    const long width = l->width;
    memcpy(seen, x, n * width * sizeof *seen);
    for (long i = 0; i < l->n_layers; i++) {
        const Matrix *recalled = l->recalled + i;
        float *hidden = past + i * width, *cell = hidden + l->n_layers * width;
        FN(product)(l->heard + i, x, width, n, l->heard[i].bias, 0, gates, 4 * width);
        for (long row = 0; row < n; row++) {
            float *gate = gates + row * 4 * width;
            if (recalled->half)
                FN(recall)(1, recalled, hidden, gate, row % 2);
            else
                FN(recall)(0, recalled, hidden, gate, row % 2);
            for (long c = 0; c < width; c += LANES) {
                const VEC in = FN(sigmoid)(LOAD(gate + c));
                const VEC out = FN(sigmoid)(LOAD(gate + width + c));
                const VEC kept = FN(sigmoid)(LOAD(gate + 2 * width + c));
                const VEC state = FMA(kept, LOAD(cell + c), in * FN(tanh)(LOAD(gate + 3 * width + c)));
                STORE(cell + c, state);
                STORE(hidden + c, out * FN(tanh)(state));
            }
            memcpy(x + row * width, hidden, width * sizeof *x);
        }
    }
    for (long i = 0; i < n * width; i += LANES)
        STORE(x + i, LOAD(x + i) + LOAD(seen + i));
}

/* A block of `n` steps in the first buffer through all layers; returns the last one's output. */
TARGET static const float *FN(pass)(const Network *net, long n, float *state, Work *work, long *made)
{
    long steps[N_BUFFERS] = {n, 0, 0};
    const int started = state[0] > 0;
    int last = 0;
    state++;
    for (long i = 0; i < net->n_layers; i++) {
        const Layer *layer = net->layers + i;
        float **buffers = work->buffers;
        if (layer->recurrent) {
            const Recurrence *l = &layer->recurrence;
            FN(recur)(l, state, buffers[l->at], steps[l->at], work->seen, work->gates);
            state += 2 * l->n_layers * l->width;
            last = l->at;
        } else {
            const Convolution *l = &layer->convolution;
            steps[l->to] = FN(convolve)(l, started, state, buffers[l->from], steps[l->from],
                                        buffers[l->to], work->seen);
            state += l->inputs * (l->kernel - l->stride);
            last = l->to;
        }
    }
    *made = steps[last];
    return work->buffers[last];
}
