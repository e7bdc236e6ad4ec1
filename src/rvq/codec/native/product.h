/* Functions of vectors and matrix products for one instruction set, included by `sets.h` for each;
 * at its end it includes LAYERS, what a network makes of them.
 *
 * Expects: FN(name) names a function of this set, TARGET its attribute, VEC and INT vectors of LANES
 * floats and 32-bit integers with LOAD, LOAD_HALF, SET1, FMA (a * b + c), LEAST, MOST, and ROWS, the
 * rows of a tile: two vectors a row must fit into the registers. ONE may name another set's product
 * for one row.
 *
 * Every number comes out of the same operations in the same order, each rounded once, whatever the
 * set, the tile and the number of rows: an element of a matrix product is one chain of fused
 * multiply-adds, functions are polynomials.
 */
#define VECS_PER_PANEL (PANEL / LANES)
#define STORE(p, v) FN(store)(p, v)
#define INLINE static inline __attribute__((always_inline))

TARGET INLINE void FN(store)(float *p, VEC v)
{
    memcpy(p, &v, sizeof v);
}

TARGET INLINE VEC FN(exp)(VEC x)
{
    const VEC shift = SET1(12582912.0f); /* 1.5 * 2^23: rounds, and leaves n in the low bits */
    x = MOST(LEAST(x, SET1(88.0f)), SET1(-87.0f));
    const VEC biased = FMA(x, SET1(1.44269504f), shift), n = biased - shift;
    VEC r = FMA(n, SET1(-0.693359375f), x);
    r = FMA(n, SET1(2.12194440e-4f), r);
    VEC p = SET1(0.0013951719738543034f);
    p = FMA(p, r, SET1(0.008369598537683487f));
    p = FMA(p, r, SET1(0.0416661873459816f));
    p = FMA(p, r, SET1(0.16666512191295624f));
    p = FMA(p, r, SET1(0.5f));
    p = FMA(r * r, p, r) + SET1(1.0f);
    const INT scale = ((INT)biased << 23) + 0x3F800000;
    return p * (VEC)scale;
}

/* `rows` rows of x times `vecs` vectors of columns. Row r starts from `start + r * start_stride`. */
TARGET INLINE void FN(tile)(const int rows, const int vecs, const int half, const float *x,
                            long x_stride, long k, const void *panels, const float *start,
                            long start_stride, float *y, long y_stride)
{
    VEC sum[2 * ROWS > 8 ? 2 * ROWS : 8]; /* in registers: the loops below unroll */
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            sum[r * vecs + v] = LOAD(start + r * start_stride + v * LANES);
    for (long d = 0; d < k; d++) {
        VEC w[8];
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++) {
            const long at = (v * LANES / PANEL * k + d) * PANEL + v * LANES % PANEL;
            w[v] = half ? LOAD_HALF((const uint16_t *)panels + at) : LOAD((const float *)panels + at);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const VEC factor = SET1(x[r * x_stride + d]);
#pragma GCC unroll 16
            for (int v = 0; v < vecs; v++)
                sum[r * vecs + v] = FMA(factor, w[v], sum[r * vecs + v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int v = 0; v < vecs; v++)
            STORE(y + r * y_stride + v * LANES, sum[r * vecs + v]);
}

#ifndef ONE
#define ONE FN(product_of_one)
/* Columns of one frame: eight chains at once, so that they hide each other's latency. */
TARGET INLINE void FN(columns_of_one)(const int half, const Matrix *m, const float *x,
                                      const float *start, float *y)
{
    const long size = half ? 2 : 4, step = 8 * LANES;
    long o = 0;
    for (; o + step <= m->padded; o += step)
        FN(tile)(1, 8, half, x, 0, m->k, (const char *)m->panels + o * m->k * size, start + o, 0,
                 y + o, 0);
    for (; o < m->padded; o += PANEL)
        FN(tile)(1, VECS_PER_PANEL, half, x, 0, m->k, (const char *)m->panels + o * m->k * size,
                 start + o, 0, y + o, 0);
}

TARGET static void FN(product_of_one)(const Matrix *m, const float *x, const float *start, float *y)
{
    if (m->half)
        FN(columns_of_one)(1, m, x, start, y);
    else
        FN(columns_of_one)(0, m, x, start, y);
}
#endif

TARGET INLINE void FN(product_of_many)(const int half, const Matrix *m, const float *x,
                                       long x_stride, long rows, const float *start,
                                       long start_stride, float *y, long y_stride)
{
    const long size = half ? 2 : 4;
    for (long o = 0; o < m->padded; o += 2 * LANES) {
        const long panel = o / PANEL * PANEL;
        const char *w = (const char *)m->panels + (panel * m->k + o - panel) * size;
        for (long row = 0; row < rows;) {
            const float *from = x + row * x_stride, *first = start + row * start_stride + o;
            float *to = y + row * y_stride + o;
            if (rows - row > 4) {
                FN(tile)(ROWS, 2, half, from, x_stride, m->k, w, first, start_stride, to, y_stride);
                row += ROWS;
            } else {
                FN(tile)(4, 2, half, from, x_stride, m->k, w, first, start_stride, to, y_stride);
                row += 4;
            }
        }
    }
}

/* y = start + x times the matrix. Rows up to a multiple of ROWS are read and written. */
TARGET static void FN(product)(const Matrix *m, const float *x, long x_stride, long rows,
                               const float *start, long start_stride, float *y, long y_stride)
{
    if (rows == 1)
        ONE(m, x, start, y);
    else if (m->half)
        FN(product_of_many)(1, m, x, x_stride, rows, start, start_stride, y, y_stride);
    else
        FN(product_of_many)(0, m, x, x_stride, rows, start, start_stride, y, y_stride);
}

#include LAYERS

#undef VECS_PER_PANEL
#undef ONE
#undef STORE
#undef INLINE
#undef FN
#undef TARGET
#undef VEC
#undef INT
#undef LANES
#undef ROWS
#undef LOAD
#undef LOAD_HALF
#undef SET1
#undef FMA
#undef LEAST
#undef MOST
#undef TO_FLOAT
