/* The integer network that gives codewords their frequencies; `../entropy.py` explains it.
 *
 * Included by the range coder and by the search that prices codewords.
 */
#ifndef RVQ_NETWORK_H
#define RVQ_NETWORK_H

#include <stdint.h>
#include <string.h>

#define PANEL 16    /* codewords side by side in the packed weights */
#define GROUP 64    /* codewords whose frequencies are summed together */
#define MAX_HIDDEN 128
#define MAX_MEMORY 8
#define TOP 1023    /* greatest activation */
#define ABSENT 65535

typedef struct {
    long size, padded, hidden, shift, memory, precision;
    const int16_t *weights; /* [padded / PANEL][hidden / 2][PANEL][2] */
    const int32_t *bias;    /* [padded] */
    const int32_t *past;    /* [memory][size][hidden]: what this layer's codes 1, 2, ... frames
                               before add */
} Layer;

typedef struct {
    int32_t *logits;    /* [padded] */
    uint32_t *counts;   /* [padded] */
    uint64_t *sums;     /* [padded / GROUP] */
    uint64_t total;
} Table;

typedef void (*Fill)(const Layer *, const int16_t *, Table *);

/* Logits, in 2^-precision bit, to frequencies: 1 + 65536 * 2^(-d / 256), d below the greatest. */
#define COUNTS                                                                                     \
    const long down = layer->precision - 8;                                                        \
    int32_t greatest = INT32_MIN;                                                                  \
    for (long k = 0; k < layer->size; k++)                                                         \
        greatest = table->logits[k] > greatest ? table->logits[k] : greatest;                      \
    for (long k = 0; k < layer->padded; k++) {                                                     \
        uint32_t below = (uint32_t)(greatest - table->logits[k]) >> down;                          \
        below = below > 8191 ? 8191 : below;                                                       \
        const uint32_t part = below & 255;                                                         \
        table->counts[k] = ((65536 - ((part * (44012 - 44 * part)) >> 8)) >> (below >> 8)) + 1;    \
    }                                                                                              \
    for (long k = layer->size; k < layer->padded; k++)                                             \
        table->counts[k] = 0;                                                                      \
    table->total = 0;                                                                              \
    for (long g = 0; g < layer->padded / GROUP; g++) {                                             \
        uint32_t sum = 0;                                                                          \
        for (long k = 0; k < GROUP; k++)                                                           \
            sum += table->counts[g * GROUP + k];                                                   \
        table->sums[g] = sum;                                                                      \
        table->total += sum;                                                                       \
    }

static void fill_portable(const Layer *layer, const int16_t *active, Table *table)
{
    const int16_t *w = layer->weights;
    for (long p = 0; p < layer->padded; p += PANEL) {
        int32_t sum[PANEL];
        memcpy(sum, layer->bias + p, sizeof sum);
        for (long h = 0; h < layer->hidden; h += 2, w += 2 * PANEL)
            for (int i = 0; i < PANEL; i++)
                sum[i] += w[2 * i] * active[h] + w[2 * i + 1] * active[h + 1];
        memcpy(table->logits + p, sum, sizeof sum);
    }
    COUNTS
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void fill_avx2(const Layer *layer, const int16_t *active,
                                                      Table *table)
{
    const __m256i *w = (const __m256i *)layer->weights;
    for (long p = 0; p < layer->padded; p += PANEL) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(layer->bias + p));
        __m256i b = _mm256_loadu_si256((const __m256i *)(layer->bias + p + 8));
        for (long h = 0; h < layer->hidden; h += 2, w += 2) {
            int32_t pair;
            memcpy(&pair, active + h, sizeof pair);
            const __m256i both = _mm256_set1_epi32(pair);
            a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_loadu_si256(w), both));
            b = _mm256_add_epi32(b, _mm256_madd_epi16(_mm256_loadu_si256(w + 1), both));
        }
        _mm256_storeu_si256((__m256i *)(table->logits + p), a);
        _mm256_storeu_si256((__m256i *)(table->logits + p + 8), b);
    }
    COUNTS
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void
fill_avx512(const Layer *layer, const int16_t *active, Table *table)
{
    const long step = layer->hidden / 2; /* vectors per panel */
    const __m512i *w = (const __m512i *)layer->weights;
    for (long p = 0; p < layer->padded; p += 4 * PANEL, w += 4 * step) {
        __m512i sum[4];
        for (int i = 0; i < 4; i++)
            sum[i] = _mm512_loadu_si512(layer->bias + p + i * PANEL);
        for (long h = 0; h < step; h++) {
            int32_t pair;
            memcpy(&pair, active + 2 * h, sizeof pair);
            const __m512i both = _mm512_set1_epi32(pair);
            for (int i = 0; i < 4; i++)
                sum[i] = _mm512_add_epi32(
                    sum[i], _mm512_madd_epi16(_mm512_loadu_si512(w + i * step + h), both));
        }
        for (int i = 0; i < 4; i++)
            _mm512_storeu_si512(table->logits + p + i * PANEL, sum[i]);
    }
    COUNTS
}
#endif

static Fill best_fill(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return fill_avx512;
    if (__builtin_cpu_supports("avx2"))
        return fill_avx2;
#endif
    return fill_portable;
}

/* The activations of a frame: what lower layers add and what this layer's codes before it add;
 * `before` of them are there, the newest at `codes[-1]`. */
static void activate(const Layer *layer, const int32_t *base, const uint16_t *codes, long before,
                     int16_t *active)
{
    int64_t sum[MAX_HIDDEN];
    for (long h = 0; h < layer->hidden; h++)
        sum[h] = base[h];
    for (long i = 0; i < layer->memory && i < before; i++) {
        if (codes[-1 - i] == ABSENT)
            continue;
        const int32_t *row = layer->past + (i * layer->size + codes[-1 - i]) * layer->hidden;
        for (long h = 0; h < layer->hidden; h++)
            sum[h] += row[h];
    }
    for (long h = 0; h < layer->hidden; h++) {
        const int64_t value = sum[h] >> layer->shift;
        active[h] = (int16_t)(value < 0 ? 0 : value > TOP ? TOP : value);
    }
}

#endif
