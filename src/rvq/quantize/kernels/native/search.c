/* Nearest-codeword search in C: greedy and beam, for the instruction set found at run time.
 *
 * Vectors are taken in chunks whose scores and residuals stay in the cache; a tile of scores stays
 * in registers. The interface to Python is at the end; `kernels/native.py` describes the arguments.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define CHUNK 48      /* rows at a time; a multiple of every ROWS, 12 and 16 */
#define GROUP 384     /* rows that go through a stage together; whole chunks */
#define PANEL 32      /* codewords side by side in the packed codebooks */
#define MAX_BEAM 32
#define MAX_STAGES 256
#define MOST_DIMS8 32768 /* sums of products of bytes fit into 32 bits */
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef struct {
    long n_codebooks, size, padded, dim;
    long quads, pairs;        /* that a vector in 8 and in 16 bits takes */
    const float *codebooks;   /* [n_codebooks][size][dim] */
    const float *packed;      /* [n_codebooks][padded / PANEL][dim][PANEL] */
    const uint16_t *packed16; /* bfloat16, [n_codebooks][padded / PANEL][pairs][PANEL][2], or none */
    const double *costs;      /* [n_codebooks][size]: score = x.c - cost */
    const float *offsets;     /* -costs, [n_codebooks][padded], -infinity for no codeword */
    const float *reach;       /* [n_codebooks][2]: greatest norm and cost of a codebook */
    const uint8_t *packed8;   /* bytes, [n_codebooks][padded / PANEL][quads][PANEL][4], or none */
    const float *centres;     /* what they are less, [n_codebooks][dim] */
    const float *levels8;     /* [n_codebooks][3][padded]: steps, offsets, reach */
    const float *bounds8;     /* [n_codebooks][3], as `kernels/books.py` describes them */
    const uint16_t *tables;   /* float16 products of codewords of two stages over scale, or none */
    float scale;              /* a power of two */
} Books;

typedef struct {
    int n, size;
    float score[MAX_BEAM];
    int32_t parent[MAX_BEAM], code[MAX_BEAM];
} Best;

/* Groups of four bytes that so many components take: whole tiles of up to 16, all equally filled. */
static inline long groups_of(long dim, long in_a_group)
{
    const long groups = (dim + in_a_group - 1) / in_a_group, tiles = (groups + 15) / 16;
    return tiles * ((groups + tiles - 1) / tiles);
}

static inline long whole_chunks(long rows) { return (rows + CHUNK - 1) / CHUNK * CHUNK; }

static inline void best_clear(Best *best, long size)
{
    best->n = best->size = (int)size;
    for (int i = 0; i < best->size; i++) {
        best->score[i] = -INFINITY;
        best->parent[i] = best->code[i] = 0;
    }
}

/* Insert a score; of equal ones the first stays ahead. */
static inline void keep(Best *best, float score, int parent, long code)
{
    int i = best->size - 1;
    if (!(score > best->score[i]))
        return;
    for (; i > 0 && score > best->score[i - 1]; i--) {
        best->score[i] = best->score[i - 1];
        best->parent[i] = best->parent[i - 1];
        best->code[i] = best->code[i - 1];
    }
    best->score[i] = score;
    best->parent[i] = parent;
    best->code[i] = (int32_t)code;
}

static inline void clear_greatest(float *greatest)
{
    for (int i = 0; i < PANEL; i++)
        greatest[i] = -INFINITY;
}

/* Products of a codeword of an earlier stage with those of a stage. */
static inline const uint16_t *row_of(const Books *books, long stage, long earlier, long k)
{
    return books->tables + ((stage * (stage - 1) / 2 + earlier) * books->size + k) * books->padded;
}

static inline void fetch(const uint16_t *row, long padded)
{
    for (long i = 0; i < padded; i += 32)
        __builtin_prefetch(row + i);
}

static inline void write_path(const int32_t *path, long stages, int64_t **codes)
{
    for (long stage = 0; stage < stages; stage++)
        *(*codes)++ = path[stage];
}

/* The definition of a score: products of floats are exact in float64, the order of the sum is
 * fixed, so every processor and `kernels/blas.py` get the same. */
static double exact_score(const Books *books, long stage, long k, const float *x)
{
    const float *c = books->codebooks + (stage * books->size + k) * books->dim;
    double sum = 0;
    for (long d = 0; d < books->dim; d++)
        sum += (double)x[d] * c[d];
    return sum - books->costs[stage * books->size + k];
}

/* The best of `n` codewords, in order of their index, or of the first n; ties go to the lowest. */
static long exact_best(const Books *books, long stage, const float *x, const int32_t *rivals, long n)
{
    long winner = rivals ? rivals[0] : 0;
    if (n == 1)
        return winner;
    double record = exact_score(books, stage, winner, x);
    for (long i = 1; i < n; i++) {
        const long k = rivals ? rivals[i] : i;
        const double score = exact_score(books, stage, k, x);
        if (score > record) {
            record = score;
            winner = k;
        }
    }
    return winner;
}

/* Twice the largest rounding error of a float32 score of a vector of a given norm (Higham 2002,
 * section 3.1); infinite where products can be too small for float32. */
static inline float error_margin(const Books *books, long stage, float norm)
{
    const float size = norm * books->reach[2 * stage] + books->reach[2 * stage + 1];
    return size < 1e-25f ? INFINITY : (float)(books->dim + 8) * FLT_EPSILON * size;
}

static inline float norm(const float *x, long dim)
{
    typedef float Eight __attribute__((vector_size(32)));
    Eight lanes = {0};
    float sum = 0;
    long d = 0;
    for (; d + 8 <= dim; d += 8) {
        Eight v;
        memcpy(&v, x + d, sizeof v);
        lanes += v * v;
    }
    for (; d < dim; d++)
        sum += x[d] * x[d];
    for (int i = 0; i < 8; i++)
        sum += lanes[i];
    return sqrtf(sum);
}

#if defined(__x86_64__)
#include "int8.h"
#include "bf16.h"
#if defined(__linux__) && (__has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>))
#define AMX
#include "amx.h"
#endif

#define NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

#ifdef AMX
#define FN(name) name##_amx
#define TARGET TARGET_AMX
#include "avx512.h"
#define SCORES16 scores_bf16_amx
#define MULTIPLY8 multiply_amx
#include "tiles.h"
#endif

#define FN(name) name##_avx512bf16
#define TARGET TARGET16
#include "avx512.h"
#define SCORES16 scores_bf16
#define MULTIPLY8 multiply_vnni
#include "tiles.h"

#define FN(name) name##_avx512vnni
#define TARGET TARGET8
#include "avx512.h"
#define MULTIPLY8 multiply_vnni
#include "tiles.h"

#define FN(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#include "avx512.h"
#include "tiles.h"

#define FN(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define VEC __m256
#define LANES 8
#define ROWS 6
#define LOAD(p) _mm256_loadu_ps(p)
#define LOAD_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define STORE_HALF(p, v) _mm_storeu_si128((__m128i *)(p), _mm256_cvtps_ph(v, NEAREST))
#define SET1(s) _mm256_set1_ps(s)
#define ADD(a, b) _mm256_add_ps(a, b)
#define MAX(a, b) _mm256_max_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define AT_LEAST(a, b) (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))
#include "tiles.h"
#endif

/* Any other processor: vectors of four, which compilers map to what there is. */
typedef float Four __attribute__((vector_size(16)));
static inline Four four_load(const float *p) { Four v; memcpy(&v, p, sizeof v); return v; }
static inline Four four_load_half(const uint16_t *p)
{
    Four v;
    for (int i = 0; i < 4; i++) {
        const int exponent = p[i] >> 10 & 31, fraction = p[i] & 1023;
        const float size = exponent ? ldexpf((float)(fraction + 1024), exponent - 25)
                                    : ldexpf((float)fraction, -24);
        v[i] = p[i] >> 15 ? -size : size;
    }
    return v;
}
static inline void four_store(float *p, Four v) { memcpy(p, &v, sizeof v); }
static inline void four_store_half(uint16_t *p, Four v)
{
    for (int i = 0; i < 4; i++) {
        const float size = fabsf(v[i]);
        int exponent = -13;
        if (size >= 0x1p-14f)
            frexpf(size, &exponent);
        /* A fraction that rounds up to 2048 carries into the exponent, as it should. */
        const int fraction = (int)nearbyintf(ldexpf(size, 11 - exponent));
        p[i] = (uint16_t)((signbit(v[i]) ? 0x8000 : 0) + ((exponent + 13) << 10) + fraction);
    }
}
static inline Four four_max(Four a, Four b)
{
    for (int i = 0; i < 4; i++)
        a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
static inline Four four_fma(Four a, Four b, Four c)
{
    for (int i = 0; i < 4; i++)
        c[i] = fmaf(a[i], b[i], c[i]); /* one rounding, as elsewhere */
    return c;
}
static inline unsigned four_at_least(Four a, Four b)
{
    return (unsigned)((a[0] >= b[0]) | (a[1] >= b[1]) << 1 | (a[2] >= b[2]) << 2 |
                      (a[3] >= b[3]) << 3);
}
#define FN(name) name##_portable
#define TARGET
#define VEC Four
#define LANES 4
#define ROWS 4
#define LOAD(p) four_load(p)
#define LOAD_HALF(p) four_load_half(p)
#define STORE(p, v) four_store(p, v)
#define STORE_HALF(p, v) four_store_half(p, v)
#define SET1(s) ((Four){s, s, s, s})
#define ADD(a, b) ((a) + (b))
#define MAX(a, b) four_max(a, b)
#define FMA(a, b, c) four_fma(a, b, c)
#define AT_LEAST(a, b) four_at_least(a, b)
#include "tiles.h"

#if defined(__x86_64__)
#define CPU(feature) (__builtin_cpu_supports(feature) != 0)
static int runs_avx2(void) { return CPU("avx2") && CPU("fma") && CPU("f16c"); }
static int runs_avx512(void)
{
    return CPU("avx512f") && CPU("avx512bw") && CPU("avx512vl") && CPU("avx512dq");
}
static int runs_avx512vnni(void) { return runs_avx512() && CPU("avx512vnni"); }
static int runs_avx512bf16(void) { return runs_avx512vnni() && CPU("avx512bf16"); }
#ifdef AMX
static int runs_amx(void) { return runs_avx512bf16() && amx_permitted(); }
#endif
#endif
static int runs_portable(void) { return 1; }

typedef struct {
    const char *name;
    int bf16, int8; /* whether it can score so */
    int (*runs)(void);
    void (*greedy)(const Books *, const float *, long, int64_t *, float *, float *, int);
    void (*beam_tables)(const Books *, const float *, long, int, int, int64_t *, float *, int);
    void (*beam_residuals)(const Books *, const float *, long, int, int, int64_t *, float *, int);
    void (*products)(const Books *, const float *, long, uint16_t *, float *);
    void (*decode)(const int64_t *, long, long, long, long, const float *, float *);
} Kernel;

#define KERNEL(name, bf16, int8)                                                                   \
    {#name, bf16, int8, runs_##name, greedy_##name, beam_tables_##name,                            \
     beam_residuals_##name, products_##name, decode_##name}
static const Kernel KERNELS[] = {
#if defined(__x86_64__)
#ifdef AMX
    KERNEL(amx, 1, 1),
#endif
    KERNEL(avx512bf16, 1, 1),
    KERNEL(avx512vnni, 0, 1),
    KERNEL(avx512, 0, 0),
    KERNEL(avx2, 0, 0),
#endif
    KERNEL(portable, 0, 0),
};
#define N_KERNELS ((int)(sizeof KERNELS / sizeof *KERNELS))

/* Whether this processor runs a kernel; asked once, for a virtual machine takes its time to tell. */
static int supported(int kernel)
{
    static signed char known[N_KERNELS];
    if (!known[kernel])
        known[kernel] = KERNELS[kernel].runs() ? 1 : -1;
    return known[kernel] > 0;
}

/* -- the interface to Python ---------------------------------------------------------------- */

static PyObject *kernels(PyObject *self, PyObject *none)
{
    (void)self, (void)none;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < N_KERNELS; i++)
        if (supported(i)) {
            PyObject *entry = Py_BuildValue("(siii)", KERNELS[i].name, i, KERNELS[i].bf16,
                                            KERNELS[i].int8);
            if (!entry || PyList_Append(names, entry) < 0)
                Py_CLEAR(names);
            Py_XDECREF(entry);
        }
    return names;
}

static PyObject *too_small(const char *what)
{
    PyErr_Format(PyExc_ValueError, "%s has another size than the shapes say", what);
    return NULL;
}

static PyObject *search(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer x, codebooks, packed, packed16, costs, offsets, reach, packed8, centres, levels, bounds,
        tables, codes, residual;
    int kernel, width, kept, fast;
    float scale;
    long n_codebooks, size, padded, dim, start, stop;
    if (!PyArg_ParseTuple(args, "iiii(llll)lly*y*y*y*y*y*y*y*y*y*y*y*fw*w*", &kernel, &width, &kept,
                          &fast, &n_codebooks, &size, &padded, &dim, &start, &stop, &x, &codebooks,
                          &packed, &packed16, &costs, &offsets, &reach, &packed8, &centres, &levels,
                          &bounds, &tables, &scale, &codes, &residual))
        return NULL;
    PyObject *result = NULL;
    const long pairs = groups_of(dim, 2), quads = groups_of(dim, 4);
    const long n_tables = padded * size * (n_codebooks * (n_codebooks - 1) / 2);
    if (kernel < 0 || kernel >= N_KERNELS || !supported(kernel) || n_codebooks < 1 ||
        n_codebooks > MAX_STAGES || size < 1 || padded < size || padded % PANEL || dim < 1 ||
        width < 1 || width > MAX_BEAM || kept < 1 || kept > width || start < 0 || stop < start)
        PyErr_SetString(PyExc_ValueError, "arguments out of range");
    else if (x.len < stop * dim * 4)
        too_small("x");
    else if (codebooks.len != n_codebooks * size * dim * 4)
        too_small("codebooks");
    else if (packed.len != n_codebooks * padded * dim * 4)
        too_small("packed");
    else if (fast && (!KERNELS[kernel].bf16 || packed16.len != n_codebooks * padded * pairs * 4))
        too_small("packed16");
    else if (costs.len != n_codebooks * size * 8)
        too_small("costs");
    else if (offsets.len != n_codebooks * padded * 4)
        too_small("offsets");
    else if (reach.len != n_codebooks * 8)
        too_small("reach");
    else if (packed8.len &&
             (!KERNELS[kernel].int8 || dim > MOST_DIMS8 ||
              packed8.len != n_codebooks * padded * quads * 4 ||
              centres.len != n_codebooks * dim * 4 || levels.len != 3 * n_codebooks * padded * 4 ||
              bounds.len != n_codebooks * 12))
        too_small("packed8");
    else if (tables.len && tables.len != n_tables * 2)
        too_small("tables");
    else if (codes.len < stop * kept * n_codebooks * 8)
        too_small("codes");
    else if (residual.len && residual.len < stop * dim * 4)
        too_small("residual");
    else {
        const Books books = {
            .n_codebooks = n_codebooks, .size = size, .padded = padded, .dim = dim, .quads = quads, .pairs = pairs,
            .codebooks = codebooks.buf, .packed = packed.buf, .packed16 = packed16.buf,
            .costs = costs.buf, .offsets = offsets.buf, .reach = reach.buf,
            .packed8 = packed8.len ? packed8.buf : NULL, .centres = centres.buf, .levels8 = levels.buf,
            .bounds8 = bounds.buf, .tables = tables.buf, .scale = scale,
        };
        /* Vectors, or residuals of two stages; a chunk's scores and, behind them, its vectors in
         * fewer bits; scores of a vector's extensions; and paths. */
        const int by_tables = width > 1 && tables.len;
        const long group = whole_chunks(MIN(GROUP, stop - start));
        const long vectors = width > 1 && !by_tables ? 2 * CHUNK : group;
        const long scores = CHUNK * (padded + pairs);
        const long extended = width > 1 ? width * padded : 0;
        const long paths = by_tables ? width * (group * (n_codebooks + 1) + n_codebooks) : 0;
        float *work = malloc((vectors * dim + scores + extended + paths) * sizeof *work);
        if (!work) {
            PyErr_NoMemory();
            goto done;
        }
        const float *from = (const float *)x.buf + start * dim;
        int64_t *to = (int64_t *)codes.buf + start * kept * n_codebooks;
        const Kernel *run = KERNELS + kernel;
        Py_BEGIN_ALLOW_THREADS
        if (width == 1)
            run->greedy(&books, from, stop - start, to,
                        residual.len ? (float *)residual.buf + start * dim : NULL, work, fast);
        else if (by_tables)
            run->beam_tables(&books, from, stop - start, width, kept, to, work, fast);
        else
            run->beam_residuals(&books, from, stop - start, width, kept, to, work, fast);
        Py_END_ALLOW_THREADS
        free(work);
        result = Py_NewRef(Py_None);
    }
done:;
    Py_buffer *all[] = {&x, &codebooks, &packed, &packed16, &costs, &offsets, &reach, &packed8,
                        &centres, &levels, &bounds, &tables, &codes, &residual};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        PyBuffer_Release(all[i]);
    return result;
}

static PyObject *products(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer codewords, packed, table;
    int kernel;
    float scale;
    long padded, dim, start, stop;
    if (!PyArg_ParseTuple(args, "i(ll)lly*y*fw*", &kernel, &padded, &dim, &start, &stop, &codewords,
                          &packed, &scale, &table))
        return NULL;
    PyObject *result = NULL;
    float *work = NULL;
    if (kernel < 0 || kernel >= N_KERNELS || !supported(kernel) || padded < 1 || padded % PANEL ||
        dim < 1 || start < 0 || stop < start)
        PyErr_SetString(PyExc_ValueError, "arguments out of range");
    else if (codewords.len < stop * dim * 4 || packed.len != padded * dim * 4 ||
             table.len < stop * padded * 2)
        too_small("codewords, panels or table");
    else if (!(work = calloc(padded + CHUNK * (dim + padded), sizeof *work)))
        PyErr_NoMemory();
    if (work) {
        const Books books = {.n_codebooks = 1, .padded = padded, .dim = dim, .packed = packed.buf,
                             .offsets = work, .scale = scale};
        Py_BEGIN_ALLOW_THREADS
        KERNELS[kernel].products(&books, (const float *)codewords.buf + start * dim, stop - start,
                                 (uint16_t *)table.buf + start * padded, work + padded);
        Py_END_ALLOW_THREADS
        free(work);
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&codewords);
    PyBuffer_Release(&packed);
    PyBuffer_Release(&table);
    return result;
}

static PyObject *sums(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer x, codes, out;
    long n, dim, size;
    if (!PyArg_ParseTuple(args, "(lll)y*y*w*", &n, &dim, &size, &x, &codes, &out))
        return NULL;
    PyObject *result = NULL;
    if (n < 0 || dim < 1 || size < 1 || x.len != n * dim * 4 || codes.len != n * 8 ||
        out.len != size * dim * 8)
        too_small("x, codes or sums");
    else {
        const float *row = x.buf;
        const int64_t *code = codes.buf;
        double *total = out.buf;
        long bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (long i = 0; i < n; i++, row += dim) {
            bad |= code[i] < 0 || code[i] >= size;
            if (bad)
                break;
            double *restrict to = total + code[i] * dim;
            for (long d = 0; d < dim; d++)
                to[d] += row[d];
        }
        Py_END_ALLOW_THREADS
        if (bad)
            PyErr_SetString(PyExc_ValueError, "a code is out of range");
        else
            result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&x);
    PyBuffer_Release(&codes);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *decode(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer codes, codebooks, vectors;
    int kernel;
    long n, n_used, size, dim;
    if (!PyArg_ParseTuple(args, "i(llll)y*y*w*", &kernel, &n, &n_used, &size, &dim, &codes,
                          &codebooks, &vectors))
        return NULL;
    PyObject *result = NULL;
    if (kernel < 0 || kernel >= N_KERNELS || !supported(kernel))
        PyErr_SetString(PyExc_ValueError, "there is no such kernel");
    else if (n < 0 || n_used < 1 || codes.len != n * n_used * 8 || vectors.len != n * dim * 4 ||
        codebooks.len < n_used * size * dim * 4)
        too_small("codes, codebooks or vectors");
    else {
        const int64_t *code = codes.buf;
        long bad = 0;
        Py_BEGIN_ALLOW_THREADS
        for (long i = 0; i < n * n_used; i++)
            bad |= code[i] < 0 || code[i] >= size;
        if (!bad)
            KERNELS[kernel].decode(code, n, n_used, size, dim, codebooks.buf, vectors.buf);
        Py_END_ALLOW_THREADS
        if (bad)
            PyErr_SetString(PyExc_ValueError, "a code is out of range");
        else
            result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&codes);
    PyBuffer_Release(&codebooks);
    PyBuffer_Release(&vectors);
    return result;
}

/* The k smallest of  norms[i] - sum_m table[m][codes[i][m]],  in order; ties to the lowest i. */
#define SCAN(Code)                                                                                 \
    static inline __attribute__((always_inline)) void scan_##Code(                                 \
        const Code *codes, long n, const long m, long size, const float *table,                    \
        const float *norms, long k, float *best, int64_t *ids)                                     \
    {                                                                                              \
        for (long i = 0; i < n; i++, codes += m) {                                                 \
            float sum = 0;                                                                         \
            for (long j = 0; j < m; j++)                                                           \
                sum += table[j * size + codes[j]];                                                 \
            const float cost = norms[i] - sum;                                                     \
            if (!(cost < best[k - 1]))                                                             \
                continue;                                                                          \
            long at = k - 1;                                                                       \
            for (; at > 0 && cost < best[at - 1]; at--) {                                          \
                best[at] = best[at - 1];                                                           \
                ids[at] = ids[at - 1];                                                             \
            }                                                                                      \
            best[at] = cost;                                                                       \
            ids[at] = i;                                                                           \
        }                                                                                          \
    }
SCAN(uint8_t)
SCAN(uint16_t)

static PyObject *scan(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer codes, table, norms, best, ids;
    long n, m, size, k;
    if (!PyArg_ParseTuple(args, "(llll)y*y*y*w*w*", &n, &m, &size, &k, &codes, &table, &norms, &best,
                          &ids))
        return NULL;
    PyObject *result = NULL;
    const long width = size <= 256 ? 1 : 2;
    if (n < 1 || m < 1 || k < 1 || size > 65536 || codes.len != n * m * width ||
        table.len != m * size * 4 || norms.len != n * 4 || best.len != k * 4 || ids.len != k * 8)
        too_small("codes, tables or results");
    else {
        Py_BEGIN_ALLOW_THREADS
        for (long i = 0; i < k; i++) {
            ((float *)best.buf)[i] = INFINITY;
            ((int64_t *)ids.buf)[i] = -1;
        }
        if (width == 2)
            scan_uint16_t(codes.buf, n, m, size, table.buf, norms.buf, k, best.buf, ids.buf);
        else if (m == 8 && size == 256) /* constants unroll the loop */
            scan_uint8_t(codes.buf, n, 8, 256, table.buf, norms.buf, k, best.buf, ids.buf);
        else
            scan_uint8_t(codes.buf, n, m, size, table.buf, norms.buf, k, best.buf, ids.buf);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    PyBuffer_Release(&codes);
    PyBuffer_Release(&table);
    PyBuffer_Release(&norms);
    PyBuffer_Release(&best);
    PyBuffer_Release(&ids);
    return result;
}

static PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Names and numbers of what runs here, and what it can."},
    {"search", search, METH_VARARGS, "Codes (and, greedy, residuals) of x[start:stop]."},
    {"products", products, METH_VARARGS, "Half-precision products of codewords[start:stop]."},
    {"sums", sums, METH_VARARGS, "Adds the vectors of every code to its sum."},
    {"decode", decode, METH_VARARGS, "Sums of codewords."},
    {"scan", scan, METH_VARARGS, "The k nearest of vectors kept as codes, by look-up tables."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&MODULE);
}
