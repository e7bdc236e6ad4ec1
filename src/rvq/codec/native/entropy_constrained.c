/* One layer of the entropy-constrained beam search over the frames of a block.
 *
 * The same in numpy, to the bit, is `../entropy_constrained.py`, which also explains it. Floats are
 * multiplied and added in the order written there, never fused: every processor finds the same.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdlib.h>

#include "../../bitstream/native/network.h"

#define MAX_BEAM 32
#define TOGETHER 4  /* hypotheses whose products with codewords are computed together */
#define STEP 32     /* codewords whose products are, and whose costs are compared at once */
#define LIKELIEST 4096 /* bits of the frequency of the likeliest codeword, 16, in 1/256 */
#define NONE 0
#define GOING 1
#define ENDED 2

/* Products of `count` residuals `[count][dim]` with the codewords of panels `[padded / STEP][dim]
 * [STEP]`: `[count][padded]`. */
typedef void (*Products)(const float *panels, const float *residuals, long count, long dim,
                         long padded, float *out);

static void products_portable(const float *panels, const float *residuals, long count, long dim,
                              long padded, float *out)
{
    for (long j = 0; j < count; j++)
        for (long k = 0; k < padded; k += STEP) {
            const float *book = panels + k * dim;
            float sum[STEP] = {0};
            for (long d = 0; d < dim; d++)
                for (int i = 0; i < STEP; i++)
                    sum[i] += residuals[j * dim + d] * book[d * STEP + i];
            memcpy(out + j * padded + k, sum, sizeof sum);
        }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

/* `width` floats per vector; TOGETHER rows of residuals at once, the last ones repeated. */
#define PRODUCTS(name, features, width, type, zero, load, store, set1, add, mul)                   \
    __attribute__((target(features))) static void name(const float *panels,                        \
                                                       const float *residuals, long count,        \
                                                       long dim, long padded, float *out)          \
    {                                                                                              \
        for (long k = 0; k < padded; k += STEP) {                                                  \
            for (long j = 0; j < count; j += TOGETHER) {                                           \
                const float *book = panels + k * dim;                                              \
                const float *rows[TOGETHER];                                                       \
                for (long i = 0; i < TOGETHER; i++)                                                \
                    rows[i] = residuals + (j + i < count ? j + i : count - 1) * dim;               \
                for (long half = 0; half < STEP; half += 2 * width) {                              \
                    type sum[TOGETHER][2];                                                         \
                    for (int i = 0; i < TOGETHER; i++)                                             \
                        sum[i][0] = sum[i][1] = zero();                                            \
                    for (long d = 0; d < dim; d++) {                                               \
                        const type low = load(book + d * STEP + half);                             \
                        const type high = load(book + d * STEP + half + width);                    \
                        for (int i = 0; i < TOGETHER; i++) {                                       \
                            const type x = set1(rows[i][d]);                                       \
                            sum[i][0] = add(sum[i][0], mul(x, low));                               \
                            sum[i][1] = add(sum[i][1], mul(x, high));                              \
                        }                                                                          \
                    }                                                                              \
                    for (int i = 0; i < TOGETHER && j + i < count; i++) {                          \
                        store(out + (j + i) * padded + k + half, sum[i][0]);                       \
                        store(out + (j + i) * padded + k + half + width, sum[i][1]);               \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

PRODUCTS(products_avx2, "avx2", 8, __m256, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_storeu_ps,
         _mm256_set1_ps, _mm256_add_ps, _mm256_mul_ps)
PRODUCTS(products_avx512, "avx512f", 16, __m512, _mm512_setzero_ps, _mm512_loadu_ps,
         _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_mul_ps)
#endif

/* log2 of a positive number below 2^32 in 1/256, rounded down. */
static int32_t log2_256(uint64_t value)
{
    int32_t whole = 31;
    while (!(value >> 31)) {
        value <<= 1;
        whole--;
    }
    int32_t result = whole * 256;
    for (int32_t bit = 128; bit; bit >>= 1) {
        value = value * value >> 31;
        if (value >> 32) {
            value >>= 1;
            result += bit;
        }
    }
    return result;
}

typedef struct {
    float cost, error;
    int32_t bits;
    int state, parent;
    uint16_t code;
} Hypothesis;

/* Put a hypothesis among the best so far, behind those that cost the same. */
static void consider(Hypothesis *best, long beam, Hypothesis found)
{
    if (!(found.cost < best[beam - 1].cost))
        return;
    long at = beam - 1;
    for (; at && found.cost < best[at - 1].cost; at--)
        best[at] = best[at - 1];
    best[at] = found;
}

typedef struct {
    Layer layer;
    long n, dim, beam;
    int optional;
    Py_buffer weights, bias, past, panels, book, norms, lagrangians, ends, base; /* read */
    Py_buffer residuals, errors, bits, states, codes, parents;             /* changed */
    float *products, *costs, *going, *kept;
    uint16_t *path; /* this layer of the best hypotheses so far */
    Table table;
} Job;

static int allocate(Job *job)
{
    const long padded = job->layer.padded;
    job->products = malloc(job->beam * padded * sizeof(float));
    job->costs = malloc(padded * sizeof(float));
    job->going = malloc(job->beam * job->dim * sizeof(float));
    job->kept = malloc(job->beam * job->dim * sizeof(float));
    job->path = malloc((job->n + 1) * sizeof(uint16_t));
    job->table.logits = malloc(padded * sizeof(int32_t));
    job->table.counts = malloc(padded * sizeof(uint32_t));
    job->table.sums = malloc(padded / GROUP * sizeof(uint64_t));
    return job->products && job->costs && job->going && job->kept && job->path &&
           job->table.logits && job->table.counts && job->table.sums;
}

static void clear(Job *job)
{
    Py_buffer *all[] = {&job->weights,   &job->bias,        &job->past,   &job->panels,
                        &job->book,      &job->norms,       &job->lagrangians, &job->ends,
                        &job->base,      &job->residuals, &job->errors,      &job->bits,   &job->states,
                        &job->codes,     &job->parents};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->obj)
            PyBuffer_Release(all[i]);
    free(job->products);
    free(job->costs);
    free(job->going);
    free(job->kept);
    free(job->path);
    free(job->table.logits);
    free(job->table.counts);
    free(job->table.sums);
}

static int fits(Job *job)
{
    Layer *layer = &job->layer;
    const long n = job->n, dim = job->dim, beam = job->beam, all = n * beam;
    layer->padded = (layer->size + GROUP - 1) / GROUP * GROUP;
    if (layer->size < 2 || layer->size > 32768 || layer->hidden < 2 ||
        layer->hidden > MAX_HIDDEN || layer->hidden % 2 || layer->shift < 0 || layer->shift > 31 ||
        layer->memory < 0 || layer->memory > MAX_MEMORY || layer->precision < 8 ||
        layer->precision > 24 || n < 0 || n > 65535 || dim < 1 || dim > 65536 || beam < 1 ||
        beam > MAX_BEAM || job->weights.len != layer->padded * layer->hidden * 2 ||
        job->bias.len != layer->padded * 4 ||
        job->past.len != layer->memory * layer->size * layer->hidden * 4 ||
        job->panels.len != layer->padded * dim * 4 || job->book.len != layer->size * dim * 4 ||
        job->norms.len != layer->size * 4 || job->lagrangians.len != n * 4 ||
        job->ends.len != n ||
        job->base.len != all * layer->hidden * 4 || job->residuals.len != all * dim * 4 ||
        job->errors.len != all * 4 || job->bits.len != all * 4 || job->states.len != all ||
        job->codes.len != all * 2 || job->parents.len != all)
        return 0;
    layer->weights = job->weights.buf;
    layer->bias = job->bias.buf;
    layer->past = job->past.buf;
    return 1;
}

/* One hypothesis and what its extensions have in common. */
typedef struct {
    const float *norms, *products;
    const int32_t *logits;
    Hypothesis from;
    float lagrangian;
    int32_t greatest, sure; /* logit of the likeliest codeword, and what its bits are short of */
    long down;
} Extension;

static ALWAYS_INLINE Hypothesis extension(const Extension *e, long k)
{
    uint32_t below = (uint32_t)(e->greatest - e->logits[k]) >> e->down;
    below = below > LIKELIEST ? LIKELIEST : below;
    Hypothesis next = {.state = GOING, .parent = e->from.parent, .code = (uint16_t)k};
    next.error = e->from.error + (e->norms[k] - 2.0f * e->products[k]);
    next.bits = e->sure + (int32_t)below;
    next.cost = next.error + e->lagrangian * (float)next.bits;
    return next;
}

/* Extensions of one hypothesis by all codewords, into the best. */
typedef void (*Extend)(Job *job, const float *products, Hypothesis from, float lagrangian,
                       Hypothesis *best);

static ALWAYS_INLINE void extend(Job *job, const float *products, Hypothesis from,
                                 float lagrangian, Hypothesis *best)
{
    const Layer *layer = &job->layer;
    Extension e = {.norms = job->norms.buf, .products = products, .logits = job->table.logits,
                   .from = from, .lagrangian = lagrangian, .greatest = INT32_MIN,
                   .sure = from.bits + log2_256(job->table.total) - LIKELIEST,
                   .down = layer->precision - 8};
    for (long k = 0; k < layer->size; k++)
        e.greatest = e.logits[k] > e.greatest ? e.logits[k] : e.greatest;
    for (long k = 0; k < layer->size; k++)
        job->costs[k] = extension(&e, k).cost;
    for (long k = layer->size; k < layer->padded; k++)
        job->costs[k] = FLT_MAX;
    for (long start = 0; start < layer->padded; start += STEP) {
        const float most = best[job->beam - 1].cost;
        int better = 0;
        for (long k = start; k < start + STEP; k++)
            better |= job->costs[k] < most;
        if (!better)
            continue;
        for (long k = start; k < start + STEP && k < layer->size; k++)
            if (job->costs[k] < best[job->beam - 1].cost)
                consider(best, job->beam, extension(&e, k));
    }
}

static void extend_portable(Job *job, const float *products, Hypothesis from, float lagrangian,
                            Hypothesis *best)
{
    extend(job, products, from, lagrangian, best);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void extend_avx2(Job *job, const float *products,
                                                        Hypothesis from, float lagrangian,
                                                        Hypothesis *best)
{
    extend(job, products, from, lagrangian, best);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq"))) static void
extend_avx512(Job *job, const float *products, Hypothesis from, float lagrangian, Hypothesis *best)
{
    extend(job, products, from, lagrangian, best);
}
#endif

/* What depends on the processor, the fastest; all give the same. */
typedef struct {
    Kernel network;
    Products products;
    Extend extend;
} Kernels;

static Kernels best_kernels(void)
{
    Kernels best = {best_kernel(), products_portable, extend_portable};
#if defined(__x86_64__) && defined(__GNUC__)
    if (best.network.count == count_avx512) {
        best.products = products_avx512;
        best.extend = extend_avx512;
    } else if (best.network.count == count_avx2) {
        best.products = products_avx2;
        best.extend = extend_avx2;
    }
#endif
    return best;
}

static void search(Job *job, const Kernels *kernels)
{
    const Layer *layer = &job->layer;
    const long beam = job->beam, dim = job->dim, padded = layer->padded;
    uint32_t seen[4][2] = {{6, 1}, {1, 6}, {6, 1}, {1, 6}};
    uint16_t *path = job->path;
    int below = 0; /* whether the best of the frame before has the layer below */
    for (long t = 0; t < job->n; t++) {
        const float lagrangian = ((float *)job->lagrangians.buf)[t];
        const int ends = ((uint8_t *)job->ends.buf)[t];
        float *residuals = (float *)job->residuals.buf + t * beam * dim;
        float *errors = (float *)job->errors.buf + t * beam;
        int32_t *bits = (int32_t *)job->bits.buf + t * beam;
        uint8_t *states = (uint8_t *)job->states.buf + t * beam;
        uint8_t *parents = (uint8_t *)job->parents.buf + t * beam;
        uint16_t *codes = (uint16_t *)job->codes.buf + t * beam;
        uint32_t *counts = seen[t ? 2 * below + (path[t - 1] != ABSENT) : 0];
        int32_t present = 0, absent = 0;
        if (job->optional) {
            const int32_t total = log2_256(counts[0] + counts[1]);
            absent = total - log2_256(counts[0]);
            present = total - log2_256(counts[1]);
        }
        Hypothesis best[MAX_BEAM];
        for (long b = 0; b < beam; b++)
            best[b] = (Hypothesis){.cost = FLT_MAX, .code = ABSENT};
        long count = 0;
        for (long b = 0; b < beam; b++)
            if (states[b] == GOING && !ends)
                memcpy(job->going + count++ * dim, residuals + b * dim, dim * sizeof(float));
        kernels->products(job->panels.buf, job->going, count, dim, padded, job->products);
        count = 0;
        for (long b = 0; b < beam; b++) {
            Hypothesis from = {.error = errors[b], .bits = bits[b], .state = ENDED,
                               .parent = (int)b, .code = ABSENT};
            if (states[b] == GOING && !ends) {
                int16_t active[MAX_HIDDEN];
                activate(layer, (const int32_t *)job->base.buf + (t * beam + b) * layer->hidden,
                         path + t, t, active);
                fill(&kernels->network, layer, active, &job->table);
                Hypothesis next = from;
                next.bits += present;
                kernels->extend(job, job->products + count++ * padded, next, lagrangian, best);
            }
            if (states[b] == GOING)
                from.bits += absent;
            if (states[b] == ENDED || (states[b] == GOING && job->optional)) {
                from.cost = from.error + lagrangian * (float)from.bits;
                consider(best, beam, from);
            }
        }
        below = best[0].state == GOING || states[best[0].parent] == GOING;
        path[t] = best[0].code;
        if (job->optional && below)
            counts[path[t] != ABSENT] += 2;
        memcpy(job->kept, residuals, beam * dim * sizeof(float));
        for (long b = 0; b < beam; b++) {
            const Hypothesis *h = best + b;
            errors[b] = h->error;
            bits[b] = h->bits;
            states[b] = (uint8_t)h->state;
            parents[b] = (uint8_t)h->parent;
            codes[b] = h->code;
            const float *old = job->kept + h->parent * dim;
            memcpy(residuals + b * dim, old, dim * sizeof(float));
            if (h->code != ABSENT) {
                const float *word = (const float *)job->book.buf + h->code * dim;
                for (long d = 0; d < dim; d++)
                    residuals[b * dim + d] = old[d] - word[d];
            }
        }
    }
}

static PyObject *extend_layer(PyObject *self, PyObject *args)
{
    (void)self;
    Job job = {0};
    Layer *layer = &job.layer;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "(llllllllp)y*y*y*y*y*y*y*y*y*w*w*w*w*w*w*", &job.n, &job.dim,
                          &job.beam, &layer->size, &layer->hidden, &layer->shift, &layer->memory,
                          &layer->precision, &job.optional, &job.weights, &job.bias,
                          &job.past, &job.panels, &job.book, &job.norms, &job.lagrangians,
                          &job.ends, &job.base, &job.residuals, &job.errors, &job.bits, &job.states,
                          &job.codes, &job.parents))
        return NULL;
    if (!fits(&job))
        PyErr_SetString(PyExc_ValueError, "arrays of the wrong size");
    else if (!allocate(&job))
        PyErr_NoMemory();
    else {
        const Kernels kernels = best_kernels();
        Py_BEGIN_ALLOW_THREADS
        search(&job, &kernels);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    clear(&job);
    return result;
}

static PyMethodDef METHODS[] = {
    {"extend", extend_layer, METH_VARARGS, "Extend the hypotheses of all frames by one layer."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_entropy_constrained", NULL, -1,
                                    METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__entropy_constrained(void)
{
    return PyModule_Create(&MODULE);
}
