/* The integer network that gives codewords their frequencies; `../entropy.py` explains it.
 *
 * Included by the range coder and by the search that prices codewords.
 */
#ifndef RVQ_NETWORK_H
#define RVQ_NETWORK_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif

#define GROUP 64       /* outputs side by side in packed weights, and codewords summed together */
#define MAX_HIDDEN 128
#define MAX_MEMORY 8
#define TOP 1023       /* greatest activation */
#define ABSENT 65535

typedef struct {
    long size, padded, hidden, shift, memory, precision;
    const int16_t *weights; /* [padded / GROUP][hidden / 2][GROUP][2] */
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

/* The sums of `bias[padded]` and the products of `weights`, packed as above, with `pairs` pairs of
 * inputs. */
typedef void (*Product)(const int16_t *weights, const int32_t *bias, const int16_t *inputs,
                        long pairs, long padded, int32_t *sums);
typedef void (*Count)(const Layer *, Table *);
typedef struct {
    const char *name;
    Product product;
    Count count;
} Kernel;

static inline int32_t pair_at(const int16_t *inputs, long i)
{
    int32_t pair;
    memcpy(&pair, inputs + 2 * i, sizeof pair);
    return pair;
}

static void product_portable(const int16_t *weights, const int32_t *bias, const int16_t *inputs,
                             long pairs, long padded, int32_t *sums)
{
    const int16_t *w = weights;
    for (long p = 0; p < padded; p += GROUP) {
        int32_t sum[GROUP];
        memcpy(sum, bias + p, sizeof sum);
        for (long i = 0; i < pairs; i++, w += 2 * GROUP)
            for (int k = 0; k < GROUP; k++)
                sum[k] += w[2 * k] * inputs[2 * i] + w[2 * k + 1] * inputs[2 * i + 1];
        memcpy(sums + p, sum, sizeof sum);
    }
}

/* Logits, in 2^-precision bit, to frequencies: 1 + 65536 * 2^(-d / 256), d below the greatest. */
static ALWAYS_INLINE void count_all(const Layer *layer, Table *table)
{
    const long down = layer->precision - 8;
    int32_t greatest = INT32_MIN;
    for (long k = 0; k < layer->size; k++)
        greatest = table->logits[k] > greatest ? table->logits[k] : greatest;
    for (long k = 0; k < layer->padded; k++) {
        uint32_t below = (uint32_t)(greatest - table->logits[k]) >> down;
        below = below > 8191 ? 8191 : below;
        const uint32_t part = below & 255;
        table->counts[k] = ((65536 - ((part * (44012 - 44 * part)) >> 8)) >> (below >> 8)) + 1;
    }
    for (long k = layer->size; k < layer->padded; k++)
        table->counts[k] = 0;
    table->total = 0;
    for (long g = 0; g < layer->padded / GROUP; g++) {
        uint32_t sum = 0;
        for (long k = 0; k < GROUP; k++)
            sum += table->counts[g * GROUP + k];
        table->sums[g] = sum;
        table->total += sum;
    }
}

static void count_portable(const Layer *layer, Table *table)
{
    count_all(layer, table);
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

__attribute__((target("avx2"))) static void count_avx2(const Layer *layer, Table *table)
{
    count_all(layer, table);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void
count_avx512(const Layer *layer, Table *table)
{
    count_all(layer, table);
}

/* `n` vectors hold a group's sums; two sets of them take turns, for a sum takes a while. */
#define PRODUCT(name, features, n, type, zero, load, store, set1, add, multiply_add)               \
    __attribute__((target(features))) static void name(                                            \
        const int16_t *weights, const int32_t *bias, const int16_t *inputs, long pairs,            \
        long padded, int32_t *sums)                                                                \
    {                                                                                              \
        for (long p = 0; p < padded; p += GROUP) {                                                 \
            const type *w = (const type *)(weights + 2 * p * pairs);                               \
            type even[n], odd[n];                                                                  \
            for (int k = 0; k < n; k++) {                                                          \
                even[k] = load((const type *)(bias + p) + k);                                      \
                odd[k] = zero();                                                                   \
            }                                                                                      \
            for (long i = 0; i < pairs; i++, w += n) {                                             \
                const type first = set1(pair_at(inputs, i));                                       \
                for (int k = 0; k < n; k++)                                                        \
                    even[k] = multiply_add(even[k], load(w + k), first);                           \
                if (++i == pairs)                                                                  \
                    break;                                                                         \
                w += n;                                                                            \
                const type second = set1(pair_at(inputs, i));                                      \
                for (int k = 0; k < n; k++)                                                        \
                    odd[k] = multiply_add(odd[k], load(w + k), second);                            \
            }                                                                                      \
            for (int k = 0; k < n; k++)                                                            \
                store((type *)(sums + p) + k, add(even[k], odd[k]));                               \
        }                                                                                          \
    }

#define MULTIPLY_ADD_256(sum, a, b) _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
#define MULTIPLY_ADD_512(sum, a, b) _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))

PRODUCT(product_avx2, "avx2", 8, __m256i, _mm256_setzero_si256, _mm256_loadu_si256,
        _mm256_storeu_si256, _mm256_set1_epi32, _mm256_add_epi32, MULTIPLY_ADD_256)
PRODUCT(product_avx512, "avx512f,avx512bw", 4, __m512i, _mm512_setzero_si512, _mm512_loadu_si512,
        _mm512_storeu_si512, _mm512_set1_epi32, _mm512_add_epi32, MULTIPLY_ADD_512)
PRODUCT(product_vnni, "avx512f,avx512bw,avx512vnni", 4, __m512i, _mm512_setzero_si512,
        _mm512_loadu_si512, _mm512_storeu_si512, _mm512_set1_epi32, _mm512_add_epi32,
        _mm512_dpwssd_epi32)
#endif

#define MAX_KERNELS 4

/* Those that run on this processor, fastest first; all give the same. Returns how many. */
static int list_kernels(Kernel kernels[MAX_KERNELS])
{
    int n = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    const int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512vnni"))
        kernels[n++] = (Kernel){"vnni", product_vnni, count_avx512};
    if (avx512)
        kernels[n++] = (Kernel){"avx512", product_avx512, count_avx512};
    if (__builtin_cpu_supports("avx2"))
        kernels[n++] = (Kernel){"avx2", product_avx2, count_avx2};
#endif
    kernels[n++] = (Kernel){"portable", product_portable, count_portable};
    return n;
}

static Kernel best_kernel(void)
{
    Kernel kernels[MAX_KERNELS];
    list_kernels(kernels);
    return kernels[0];
}

static void fill(const Kernel *kernel, const Layer *layer, const int16_t *active, Table *table)
{
    kernel->product(layer->weights, layer->bias, active, layer->hidden / 2, layer->padded,
                    table->logits);
    kernel->count(layer, table);
}

/* The activations of a frame: what lower layers add and what this layer's codes before it add;
 * `before` of them are there, the newest at `codes[-1]`. */
static void activate(const Layer *layer, const int32_t *base, const uint16_t *codes, long before,
                     int16_t *active)
{
    int32_t sum[MAX_HIDDEN]; /* below 2^31: checked when the model was read */
    memcpy(sum, base, layer->hidden * sizeof *sum);
    for (long i = 0; i < layer->memory && i < before; i++) {
        if (codes[-1 - i] == ABSENT)
            continue;
        const int32_t *row = layer->past + (i * layer->size + codes[-1 - i]) * layer->hidden;
        for (long h = 0; h < layer->hidden; h++)
            sum[h] += row[h];
    }
    for (long h = 0; h < layer->hidden; h++) {
        const int32_t value = sum[h] >> layer->shift;
        active[h] = (int16_t)(value < 0 ? 0 : value > TOP ? TOP : value);
    }
}

#endif
