/* The search for one instruction set, included once for each.
 *
 * Expects: FN(name) names a function of this set, TARGET its attribute, VEC a vector of LANES floats
 * with LOAD, LOAD_HALF, STORE, SET1, ADD, MAX, FMA (a * b + c), AT_LEAST (a bit mask over the
 * lanes), and ROWS, the rows of a tile: two vectors of scores a row must fit into the registers.
 */

/* Scores of ROWS vectors against 2 * LANES codewords. Every score is one chain of fused
 * multiply-adds over the dimension, so that it does not depend on LANES or ROWS. */
TARGET static void FN(tile)(const float *restrict x, long dim, const float *restrict panel,
                            const float *restrict offsets, float *restrict scores, long stride)
{
    VEC a[ROWS], b[ROWS];
    VEC a0 = LOAD(offsets), b0 = LOAD(offsets + LANES);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        a[r] = a0;
        b[r] = b0;
    }
    for (long d = 0; d < dim; d++) {
        VEC p = LOAD(panel), q = LOAD(panel + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            VEC v = SET1(x[r * dim + d]);
            a[r] = FMA(v, p, a[r]);
            b[r] = FMA(v, q, b[r]);
        }
        panel += PANEL;
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        STORE(scores + r * stride, a[r]);
        STORE(scores + r * stride + LANES, b[r]);
    }
}

/* The same for one vector and whole panels: eight chains at once hide each other's latency. */
TARGET static void FN(tile_of_one)(const float *restrict x, long dim, const float *restrict packed,
                                   long padded, const float *restrict offsets,
                                   float *restrict scores)
{
    for (long k = 0; k < padded; k += 8 * LANES) {
        const int n = (int)MIN(8, (padded - k) / LANES);
        VEC sum[8];
        const float *columns[8];
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++) { /* past the end, the first columns once more */
            const long at = v < n ? k + v * LANES : k;
            columns[v] = packed + at / PANEL * PANEL * dim + at % PANEL;
            sum[v] = LOAD(offsets + at);
        }
        for (long d = 0; d < dim; d++) {
            const VEC factor = SET1(x[d]);
#pragma GCC unroll 8
            for (int v = 0; v < 8; v++)
                sum[v] = FMA(factor, LOAD(columns[v] + d * PANEL), sum[v]);
        }
#pragma GCC unroll 8
        for (int v = 0; v < 8; v++)
            if (v < n)
                STORE(scores + k + v * LANES, sum[v]);
    }
}

/* Scores of the vectors `x [CHUNK][dim]` against one codebook, `[CHUNK][padded]`. */
TARGET static void FN(scores)(const float *x, long n_rows, const Books *books, long stage,
                              float *scores, long stride, int fast)
{
#ifdef SCORES16
    if (fast) {
        SCORES16(x, n_rows, books, stage, scores, stride);
        return;
    }
#endif
    (void)fast;
    const float *packed = books->packed + stage * books->padded * books->dim;
    const float *offsets = books->offsets + stage * books->padded;
    if (n_rows == 1) {
        FN(tile_of_one)(x, books->dim, packed, books->padded, offsets, scores);
        return;
    }
    for (long k = 0; k < books->padded; k += PANEL)
        for (long row = 0; row < n_rows; row += ROWS)
            for (long o = 0; o < PANEL; o += 2 * LANES)
                FN(tile)(x + row * books->dim, books->dim, packed + k * books->dim + o, offsets + k + o,
                         scores + row * stride + k + o, stride);
}

TARGET static float FN(greatest)(const float *scores, long n)
{
    VEC m0 = LOAD(scores), m1 = LOAD(scores + LANES);
    for (long i = 2 * LANES; i < n; i += 2 * LANES) {
        m0 = MAX(m0, LOAD(scores + i));
        m1 = MAX(m1, LOAD(scores + i + LANES));
    }
    float lanes[LANES];
    STORE(lanes, MAX(m0, m1));
    float best = lanes[0];
    for (int i = 1; i < LANES; i++)
        best = lanes[i] > best ? lanes[i] : best;
    return best;
}

/* The best codeword. Scores within `margin` of the greatest could be it: they are computed again in
 * float64, which settles the order the same way on every processor; ties go to the lowest index. */
TARGET static long FN(best)(const float *scores, float margin, const Books *books, long stage,
                            const float *x)
{
    if (!(margin < INFINITY)) /* float32 tells nothing */
        return exact_best(books, stage, x, NULL, books->size);
    const float threshold = FN(greatest)(scores, books->padded) - margin;
    const VEC least = SET1(threshold);
    long first = -1, winner = -1;
    double record = 0;
    for (long i = 0; i < books->padded; i += LANES) {
        unsigned mask = AT_LEAST(LOAD(scores + i), least);
        for (; mask; mask &= mask - 1) {
            long k = i + __builtin_ctz(mask);
            if (first < 0) {
                first = k;
                if (margin == 0)
                    return first;
                continue;
            }
            if (winner < 0) {
                winner = first;
                record = exact_score(books, stage, first, x);
            }
            double score = exact_score(books, stage, k, x);
            if (score > record) {
                record = score;
                winner = k;
            }
        }
    }
    if (first < 0) /* no score is a number */
        return exact_best(books, stage, x, NULL, books->size);
    return winner < 0 ? first : winner;
}

/* Codes of up to CHUNK vectors in one codebook, which is subtracted from them. */
TARGET static void FN(greedy_stage)(const Books *books, long stage, float *left, long rows,
                                    int64_t *codes, float *scores, int fast)
{
    const long dim = books->dim, padded = books->padded;
    const float *codebook = books->codebooks + stage * books->size * dim;
#ifdef MULTIPLY8
    Rounded rounded;
    int32_t rivals[CHUNK][MOST_RIVALS];
    int n_rivals[CHUNK];
    const int rounding = books->packed8 && !fast;
    if (rounding) {
        int32_t *products = (int32_t *)scores;
        rounded.bytes = (int8_t *)(scores + CHUNK * padded);
        round_rows(left, rows, books, stage, &rounded);
        MULTIPLY8(&rounded, rows, books, stage, products);
        for (long row = 0; row < rows; row++)
            n_rivals[row] =
                rivals_of(products + row * padded, &rounded, row, books, stage, rivals[row]);
    } else
#endif
        FN(scores)(left, rows, books, stage, scores, padded, fast);
    for (long row = 0; row < rows; row++, left += dim, scores += padded) {
        long k = -1;
#ifdef MULTIPLY8
        if (rounding && n_rivals[row])
            k = best_rival(rivals[row], n_rivals[row], books, stage, left);
        else if (rounding)
            FN(scores)(left, 1, books, stage, scores, padded, 0);
#endif
        if (k < 0) {
            const float margin = fast ? 0 : error_margin(books, stage, norm(left, dim));
            k = FN(best)(scores, margin, books, stage, left);
        }
        codes[row * books->n_codebooks + stage] = k;
        for (long d = 0; d < dim; d++)
            left[d] -= codebook[k * dim + d];
    }
}

/* Several chunks go through a stage together, so that its codewords stay in the cache. */
TARGET static void FN(greedy)(const Books *books, const float *x, long n, int64_t *codes,
                              float *residual, float *work, int fast)
{
    const long dim = books->dim, stages = books->n_codebooks;
    float *left = work, *scores = work + whole_chunks(MIN(GROUP, n)) * dim;
    memset(scores + CHUNK * books->padded, 0, CHUNK * 4 * books->quads); /* bytes beyond the last */
    for (long start = 0; start < n; start += GROUP) {
        const long rows = MIN(GROUP, n - start);
        memcpy(left, x + start * dim, rows * dim * sizeof *x);
        memset(left + rows * dim, 0, (whole_chunks(rows) - rows) * dim * sizeof *left);
        for (long stage = 0; stage < stages; stage++)
            for (long row = 0; row < rows; row += CHUNK)
                FN(greedy_stage)(books, stage, left + row * dim, MIN(CHUNK, rows - row),
                                 codes + (start + row) * stages, scores, fast);
        if (residual)
            memcpy(residual + start * dim, left, rows * dim * sizeof *x);
    }
}

/* Scores of one path's extensions, `base + path - scale * sum of rows`, and the greatest of every
 * column of a panel so far. The scale is a power of two, so each term is rounded once. */
TARGET static void FN(extend)(const float *base, const uint16_t *const *rows, long n_rows,
                              float scale, float path, long padded, float *scores, float *greatest)
{
    const VEC so_far = SET1(path), less = SET1(-scale);
    for (long o = 0; o < PANEL; o += LANES) {
        VEC top = LOAD(greatest + o);
        for (long i = o; i < padded; i += PANEL) {
            VEC v = LOAD(base + i);
            for (long j = 0; j < n_rows; j++)
                v = FMA(LOAD_HALF(rows[j] + i), less, v);
            v = ADD(v, so_far);
            STORE(scores + i, v);
            top = MAX(v, top);
        }
        STORE(greatest + o, top);
    }
}

/* The n-th greatest of PANEL scores; -infinity where there is none. */
TARGET static float FN(nth_greatest)(const float *scores, int n)
{
    float found = -INFINITY;
    for (int i = 0; i < PANEL; i++) {
        const VEC least = SET1(scores[i]);
        int count = 0; /* scores that are as great */
        for (int j = 0; j < PANEL; j += LANES)
            count += __builtin_popcount(AT_LEAST(LOAD(scores + j), least));
        found = count >= n && scores[i] > found ? scores[i] : found;
    }
    return found;
}

/* The best of all extensions. The n-th greatest of the columns' greatest scores bounds them from
 * below, so that few are looked at one by one. */
TARGET static void FN(select)(const float *scores, int n_paths, long padded, const float *greatest,
                              Best *best)
{
    const VEC least = SET1(FN(nth_greatest)(greatest, best->size));
    for (int p = 0; p < n_paths; p++)
        for (long i = 0; i < padded; i += LANES) {
            unsigned mask = AT_LEAST(LOAD(scores + p * padded + i), least);
            for (; mask; mask &= mask - 1) {
                long k = i + __builtin_ctz(mask);
                keep(best, scores[p * padded + k], p, k);
            }
        }
}

/* Sums of codewords: many dimensions at a time, which stay in registers from stage to stage. */
TARGET static void FN(decode)(const int64_t *codes, long n, long used, long size, long dim,
                              const float *codebooks, float *out)
{
    for (long i = 0; i < n; i++, codes += used, out += dim) {
        long d = 0;
        for (; d + 4 * LANES <= dim; d += 4 * LANES) {
            VEC a = SET1(0), b = a, c = a, e = a;
            for (long m = 0; m < used; m++) {
                const float *codeword = codebooks + (m * size + codes[m]) * dim + d;
                a = ADD(a, LOAD(codeword));
                b = ADD(b, LOAD(codeword + LANES));
                c = ADD(c, LOAD(codeword + 2 * LANES));
                e = ADD(e, LOAD(codeword + 3 * LANES));
            }
            STORE(out + d, a);
            STORE(out + d + LANES, b);
            STORE(out + d + 2 * LANES, c);
            STORE(out + d + 3 * LANES, e);
        }
        for (; d < dim; d++) {
            float sum = 0;
            for (long m = 0; m < used; m++)
                sum += codebooks[(m * size + codes[m]) * dim + d];
            out[d] = sum;
        }
    }
}

/* Products of vectors and codewords over a power of two, in half precision, `[n][padded]`. Sums are in
 * the order of scores, so every processor gets the same. */
TARGET static void FN(products)(const Books *books, const float *x, long n, uint16_t *table,
                                float *work)
{
    const long dim = books->dim, padded = books->padded;
    float *chunk = work, *scores = work + CHUNK * dim;
    const VEC none = SET1(0), less = SET1(1 / books->scale);
    for (long start = 0; start < n; start += CHUNK) {
        const long rows = MIN(CHUNK, n - start);
        memcpy(chunk, x + start * dim, rows * dim * sizeof *x);
        FN(scores)(chunk, rows, books, 0, scores, padded, 0);
        for (long i = 0; i < rows * padded; i += LANES)
            STORE_HALF(table + start * padded + i, FMA(LOAD(scores + i), less, none));
    }
}

/* Beam search on products of codewords: one product per vector and codeword serves all paths. Several
 * chunks go through a stage together, so that its products of codewords stay in the cache. */
TARGET static void FN(beam_tables)(const Books *books, const float *x, long n, int width, int kept,
                                   int64_t *codes, float *work, int fast)
{
    const long dim = books->dim, padded = books->padded, stages = books->n_codebooks;
    const long group = whole_chunks(MIN(GROUP, n));
    float *vectors = work, *base = vectors + group * dim;
    float *extended = base + CHUNK * (padded + books->pairs);
    float *reached = extended + width * padded;            /* [group][width] */
    int32_t *paths = (int32_t *)(reached + group * width); /* [group][width][stages] */
    int32_t *before = paths + group * width * stages;      /* [width][stages] */
    const uint16_t *rows_of_path[MAX_STAGES];
    float greatest[PANEL];
    Best best;
    for (long start = 0; start < n; start += GROUP) {
        const long rows = MIN(GROUP, n - start);
        memcpy(vectors, x + start * dim, rows * dim * sizeof *x);
        memset(vectors + rows * dim, 0, (whole_chunks(rows) - rows) * dim * sizeof *x);
        memset(reached, 0, rows * width * sizeof *reached);
        int n_paths = 1;
        for (long stage = 0; stage < stages; stage++) {
            const int n_next = (int)MIN(stage + 1 < stages ? width : kept, n_paths * books->size);
            for (long row = 0; row < rows; row++) {
                int32_t *path = paths + row * width * stages;
                const int32_t *next = path + width * stages;
                float *score = reached + row * width;
                if (row % CHUNK == 0)
                    FN(scores)(vectors + row * dim, MIN(CHUNK, rows - row), books, stage, base,
                               padded, fast);
                for (int p = 0; row + 1 < rows && p < n_paths; p++)
                    for (long j = 0; j < stage; j++)
                        fetch(row_of(books, stage, j, next[p * stages + j]), padded);
                best_clear(&best, n_next);
                clear_greatest(greatest);
                for (int p = 0; p < n_paths; p++) {
                    for (long j = 0; j < stage; j++)
                        rows_of_path[j] = row_of(books, stage, j, path[p * stages + j]);
                    FN(extend)(base + row % CHUNK * padded, rows_of_path, stage, books->scale,
                               score[p], padded, extended + p * padded, greatest);
                }
                FN(select)(extended, n_paths, padded, greatest, &best);
                memcpy(before, path, n_paths * stages * sizeof *path);
                for (int p = 0; p < n_next; p++, path += stages) {
                    memcpy(path, before + best.parent[p] * stages, stage * sizeof *path);
                    path[stage] = best.code[p];
                    score[p] = best.score[p];
                }
            }
            n_paths = n_next;
        }
        for (long row = 0; row < rows; row++)
            for (int p = 0; p < kept; p++)
                write_path(paths + (row * width + MIN(p, n_paths - 1)) * stages, stages, &codes);
    }
}

/* Beam search on residuals, where the products of codewords would not fit into memory. */
TARGET static void FN(beam_residuals)(const Books *books, const float *x, long n, int width, int kept,
                                      int64_t *codes, float *work, int fast)
{
    const long dim = books->dim, padded = books->padded, stages = books->n_codebooks;
    const long group = CHUNK / width;
    float *residuals[2] = {work, work + CHUNK * dim};
    float *scores = work + 2 * CHUNK * dim;
    Best best;
    float path_score[CHUNK];
    int32_t path[2][CHUNK][MAX_STAGES];
    memset(work, 0, 2 * CHUNK * dim * sizeof *work);
    for (long start = 0; start < n; start += group) {
        const long rows = MIN(group, n - start);
        int n_paths = 1, now = 0;
        memcpy(residuals[0], x + start * dim, rows * dim * sizeof *x);
        memset(path_score, 0, sizeof path_score);
        for (long stage = 0; stage < stages; stage++) {
            const float *codebook = books->codebooks + stage * books->size * dim;
            FN(scores)(residuals[now], rows * n_paths, books, stage, scores, padded, fast);
            float new_score[CHUNK];
            int n_next = 0;
            for (long row = 0; row < rows; row++) {
                best_clear(&best, MIN(width, n_paths * books->size));
                float *extended = scores + row * n_paths * padded, greatest[PANEL];
                clear_greatest(greatest);
                for (int p = 0; p < n_paths; p++)
                    FN(extend)(extended + p * padded, 0, 0, 0, path_score[row * n_paths + p], padded,
                               extended + p * padded, greatest);
                FN(select)(extended, n_paths, padded, greatest, &best);
                n_next = best.n; /* the same for every row */
                for (int p = 0; p < n_next; p++) {
                    long from = row * n_paths + best.parent[p], to = row * n_next + p;
                    memcpy(path[!now][to], path[now][from], stage * sizeof(int32_t));
                    path[!now][to][stage] = best.code[p];
                    new_score[to] = best.score[p];
                    const float *source = residuals[now] + from * dim;
                    const float *codeword = codebook + best.code[p] * dim;
                    float *target = residuals[!now] + to * dim;
                    for (long d = 0; d < dim; d++)
                        target[d] = source[d] - codeword[d];
                }
            }
            memcpy(path_score, new_score, sizeof path_score);
            n_paths = n_next;
            now = !now;
        }
        for (long row = 0; row < rows; row++)
            for (int p = 0; p < kept; p++)
                write_path(path[now][row * n_paths + MIN(p, n_paths - 1)], stages, &codes);
    }
}

#undef FN
#undef TARGET
#undef VEC
#undef LANES
#undef ROWS
#undef LOAD
#undef STORE
#undef STORE_HALF
#undef SET1
#undef ADD
#undef LOAD_HALF
#undef MAX
#undef FMA
#undef AT_LEAST
#undef SCORES16
#undef MULTIPLY8
