/* The layers of the default family for one instruction set; see `product.h`. A sum over channels
 * always has sixteen partial sums.
 */
/* Of normal positive numbers. */
TARGET INLINE VEC FN(log)(VEC x)
{
    const INT bits = (INT)x, exponent = (bits - 0x3F3504F3) >> 23; /* mantissa from sqrt(1/2) on */
    const VEC f = (VEC)(bits - (exponent << 23)) - SET1(1.0f), e = TO_FLOAT(exponent);
    VEC p = SET1(0.06746598333120346f);
    p = FMA(p, f, SET1(-0.11679653823375702f));
    p = FMA(p, f, SET1(0.11890323460102081f));
    p = FMA(p, f, SET1(-0.12405135482549667f));
    p = FMA(p, f, SET1(0.14219224452972412f));
    p = FMA(p, f, SET1(-0.16668006777763367f));
    p = FMA(p, f, SET1(0.20002134144306183f));
    p = FMA(p, f, SET1(-0.25000008940696716f));
    p = FMA(p, f, SET1(0.3333331346511841f));
    p = FMA(p, f, SET1(-0.5f));
    p = FMA(f * f, p, e * SET1(-2.12194440e-4f)) + f;
    return FMA(e, SET1(0.693359375f), p);
}

/* x (1 + erf(x / sqrt 2)) / 2, erf as a rational function, within 4e-7. */
TARGET INLINE VEC FN(gelu)(VEC x)
{
    const VEC z = MOST(LEAST(x * SET1(0.70710678f), SET1(3.93f)), SET1(-3.93f)), u = z * z;
    VEC p = SET1(2.0269183096388588e-06f), q = SET1(3.7991343560861424e-05f);
    p = FMA(p, u, SET1(0.0002875046629924327f));
    q = FMA(q, u, SET1(0.001191418501548469f));
    p = FMA(p, u, SET1(0.0038844977971166372f));
    q = FMA(q, u, SET1(0.015204764902591705f));
    p = FMA(p, u, SET1(0.05310874804854393f));
    q = FMA(q, u, SET1(0.11525211483240128f));
    p = FMA(p, u, SET1(0.19318562746047974f));
    q = FMA(q, u, SET1(0.5045379400253296f));
    p = FMA(p, u, SET1(1.128378987312317f));
    q = FMA(q, u, SET1(1.0f));
    const VEC half = SET1(0.5f) * x;
    return FMA(half, z * p / q, half);
}

/* x |x|^(exponent - 1), made smooth at zero; `power` is (exponent - 1) / 2. */
TARGET INLINE VEC FN(compand)(VEC x, float power)
{
    return x * FN(exp)(SET1(power) * FN(log)(FMA(x, x, SET1(1e-6f))));
}

TARGET INLINE float FN(total)(const VEC *parts)
{
    float s[16];
    memcpy(s, parts, sizeof s);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++)
            s[i] += s[i + half];
    return s[0];
}

/* Layer normalisation of rows whose padding is zero. */
TARGET static void FN(norm)(const Norm *norm, long width, long padded, const float *x, long rows,
                            float *y)
{
    const int n = 16 / LANES;
    for (long row = 0; row < rows; row++, x += padded, y += padded) {
        VEC parts[16 / LANES];
        memset(parts, 0, sizeof parts);
        for (long c = 0; c < padded; c += 16)
            for (int i = 0; i < n; i++)
                parts[i] += LOAD(x + c + i * LANES);
        const float mean = FN(total)(parts) / (float)width;
        for (long c = 0; c < padded; c += LANES)
            STORE(y + c, LOAD(x + c) - SET1(mean));
        memset(y + width, 0, (padded - width) * sizeof *y);
        memset(parts, 0, sizeof parts);
        for (long c = 0; c < padded; c += 16)
            for (int i = 0; i < n; i++)
                parts[i] = FMA(LOAD(y + c + i * LANES), LOAD(y + c + i * LANES), parts[i]);
        const float scale = 1 / sqrtf(FN(total)(parts) / (float)width + 1e-5f);
        for (long c = 0; c < padded; c += LANES)
            STORE(y + c, FMA(LOAD(y + c) * SET1(scale), LOAD(norm->weight + c), LOAD(norm->bias + c)));
    }
}

/* One ConvNeXt block on `x [rows][padded]`; `past [taps - 1][width]` are the rows before it. */
TARGET static void FN(block)(const Network *net, const Block *block, float *past, float *x, long rows,
                             Work *work)
{
    const long width = net->width, padded = net->width_padded, n_past = net->taps - 1;
    float *seen = work->seen, *y = work->narrow;
    for (long i = 0; i < n_past; i++)
        memcpy(seen + i * padded, past + i * width, width * sizeof *seen);
    memcpy(seen + n_past * padded, x, rows * padded * sizeof *seen);
    for (long i = 0; i < n_past; i++)
        memcpy(past + i * width, seen + (rows + i) * padded, width * sizeof *seen);
    for (long row = 0; row < rows; row++)
        for (long c = 0; c < padded; c += LANES) {
            VEC sum = LOAD(block->depthwise_bias + c);
            for (long i = 0; i <= n_past; i++)
                sum = FMA(LOAD(block->depthwise + i * padded + c),
                          LOAD(seen + (row + i) * padded + c), sum);
            STORE(y + row * padded + c, sum);
        }
    FN(norm)(&block->norm, width, padded, y, rows, y);
    FN(product)(&block->expand, y, padded, rows, block->expand.bias, 0, work->wide,
                net->hidden_padded);
    for (long i = 0; i < rows * net->hidden_padded; i += LANES)
        STORE(work->wide + i, FN(gelu)(LOAD(work->wide + i)));
    FN(product)(&block->contract, work->wide, net->hidden_padded, rows, block->contract.bias, 0, y,
                padded);
    for (long row = 0; row < rows; row++)
        for (long c = 0; c < padded; c += LANES) {
            const long at = row * padded + c;
            STORE(x + at, FMA(LOAD(block->scale + c), LOAD(y + at), LOAD(x + at)));
        }
}

TARGET static void FN(stack)(const Network *net, float *state, float *x, long rows, Work *work)
{
    FN(norm)(&net->norm, net->width, net->width_padded, x, rows, x);
    for (long i = 0; i < net->n_blocks; i++)
        FN(block)(net, net->blocks + i, state + i * (net->taps - 1) * net->width, x, rows, work);
    FN(norm)(&net->final_norm, net->width, net->width_padded, x, rows, x);
}

/* Window two hops and fold them to one, whose DCT-IV is their MDCT and whose DST-IV their MDST. */
TARGET static void FN(fold)(const float *window, long hop, const float *restrict first,
                            const float *restrict second, float *restrict cosine,
                            float *restrict sine)
{
    const long half = hop / 2;
    for (long i = 0; i < half; i++) {
        const float c = second[half - 1 - i] * window[hop + half - 1 - i];
        const float d = second[half + i] * window[hop + half + i];
        cosine[i] = -c - d;
        sine[i] = c - d;
    }
    for (long i = 0; i < half; i++) {
        const float a = first[i] * window[i], b = first[hop - 1 - i] * window[hop - 1 - i];
        cosine[half + i] = a - b;
        sine[half + i] = a + b;
    }
}

/* Frames whose samples `[n_frames][hop]` follow on `last [hop]` -> latents `[n_frames][dim]`. */
TARGET static void FN(encode)(const Network *net, const float *samples, long n_frames, float *last,
                              float *state, float *latents, Work *work)
{
    const long hop = net->hop, dim = net->dim, dim_padded = net->linear.padded;
    for (long start = 0; start < n_frames; start += BLOCK) {
        const long rows = n_frames - start < BLOCK ? n_frames - start : BLOCK;
        float *folded_cosine = work->wide, *folded_sine = work->wide + work->rows * hop;
        float *cosine = work->spectrum, *sine = work->spectrum + work->rows * hop, *x = work->x;
        for (long row = 0; row < rows; row++) {
            const float *second = samples + (start + row) * hop;
            const float *first = start + row ? second - hop : last;
            FN(fold)(net->window, hop, first, second, folded_cosine + row * hop,
                     folded_sine + row * hop);
        }
        FN(product)(&net->cosine, folded_cosine, hop, rows, net->cosine.bias, 0, cosine, hop);
        FN(product)(&net->sine, folded_sine, hop, rows, net->sine.bias, 0, sine, hop);
        for (long row = 0; row < rows; row++) {
            float *feature = work->wide + row * 3 * hop;
            float *to = cosine + row * hop;
            for (long i = 0; i < hop; i += LANES) {
                const VEC c = LOAD(to + i), s = LOAD(sine + row * hop + i);
                const VEC power = FN(log)(FMA(c, c, FMA(s, s, SET1(1e-7f))));
                const VEC compression = FN(exp)(SET1(-0.35f) * power);
                STORE(feature + i, SET1(0.25f) * power);
                STORE(feature + hop + i, c * compression);
                STORE(feature + 2 * hop + i, s * compression);
                STORE(to + i, FN(compand)(c, net->power));
            }
        }
        FN(product)(&net->embed, work->wide, 3 * hop, rows, net->embed.bias, 0, x,
                    net->width_padded);
        FN(stack)(net, state, x, rows, work);
        float *y = work->narrow;
        FN(product)(&net->out, x, net->width_padded, rows, net->out.bias, 0, y, dim_padded);
        FN(product)(&net->linear, cosine, hop, rows, y, dim_padded, y, dim_padded);
        for (long row = 0; row < rows; row++)
            memcpy(latents + (start + row) * dim, y + row * dim_padded, dim * sizeof *y);
    }
    memcpy(last, samples + (n_frames - 1) * hop, hop * sizeof *last);
}

/* Latents `[lookahead + n_frames][dim]`, the first from before -> samples `[n_frames][hop]`, which
 * complete those of `overlap [hop]`. */
TARGET static void FN(decode)(const Network *net, const float *heard, long n_frames, float *overlap,
                              float *state, float *samples, Work *work)
{
    const long hop = net->hop, dim = net->dim, half = hop / 2;
    const float *window = net->window;
    for (long start = 0; start < n_frames; start += BLOCK) {
        const long rows = n_frames - start < BLOCK ? n_frames - start : BLOCK;
        /* a copy with room for the rows that fill a tile */
        float *near = work->wide, *x = work->x, *y = work->spectrum, *spectrum = work->narrow;
        memcpy(near, heard + start * dim, (rows + net->lookahead) * dim * sizeof *near);
        FN(product)(&net->embed, near, dim, rows, net->embed.bias, 0, x, net->width_padded);
        FN(stack)(net, state, x, rows, work);
        FN(product)(&net->out, x, net->width_padded, rows, net->out.bias, 0, y, 2 * hop);
        memcpy(near, heard + start * dim, (rows + net->lookahead) * dim * sizeof *near);
        FN(product)(&net->linear, near, dim, rows, y + hop, 2 * hop, y + hop, 2 * hop);
        for (long row = 0; row < rows; row++)
            for (long i = 0; i < hop; i += LANES) {
                const float *from = y + row * 2 * hop + i;
                const VEC gain = MOST(LEAST(LOAD(from), SET1(6.0f)), SET1(-6.0f));
                STORE(spectrum + row * hop + i,
                      FN(compand)(LOAD(from + hop) * FN(exp)(gain), net->power));
            }
        FN(product)(&net->cosine, spectrum, hop, rows, net->cosine.bias, 0, y, hop);
        for (long row = 0; row < rows; row++) {
            const float *restrict dct = y + row * hop;
            float *restrict out = samples + (start + row) * hop;
            for (long i = 0; i < half; i++)
                out[i] = overlap[i] + dct[half + i] * window[i];
            for (long i = 0; i < half; i++)
                out[half + i] = overlap[half + i] - dct[hop - 1 - i] * window[half + i];
            for (long i = 0; i < half; i++)
                overlap[i] = -dct[half - 1 - i] * window[hop + i];
            for (long i = 0; i < half; i++)
                overlap[half + i] = -dct[i] * window[hop + half + i];
        }
    }
}
