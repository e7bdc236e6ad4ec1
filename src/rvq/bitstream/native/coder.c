/* Range coding of one layer of codes with the frequencies of a small integer network.
 *
 * The same arithmetic in numpy, to the bit, is `reference.py`, which also explains it; `coder.py`
 * describes the arguments. All numbers are integers: nothing here depends on the processor.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>

#include "network.h"

#define WINDOW 48 /* bits of the coder's interval */
#define LOW_BITS ((1ULL << WINDOW) - 1)
#define LEAST (1ULL << (WINDOW - 8))

/* -- the range coder ------------------------------------------------------------------------ */

typedef struct {
    uint8_t *bytes;
    long n, room;
    uint64_t low, range;
} Encoder;

static void put(Encoder *coder, uint64_t from, uint64_t count, uint64_t total)
{
    const uint64_t unit = coder->range / total;
    coder->low += unit * from;
    coder->range = unit * count;
    if (coder->low > LOW_BITS) { /* a carry into the bytes written */
        coder->low &= LOW_BITS;
        for (long i = coder->n - 1; i >= 0 && ++coder->bytes[i] == 0; i--)
            ;
    }
    while (coder->range < LEAST) {
        if (coder->n < coder->room)
            coder->bytes[coder->n] = (uint8_t)(coder->low >> (WINDOW - 8));
        coder->n++;
        coder->low = coder->low << 8 & LOW_BITS;
        coder->range <<= 8;
    }
}

/* The shortest bytes that, continued by zeros, stay in the interval. */
static void finish(Encoder *coder)
{
    const uint64_t gap = (LOW_BITS + 1 - coder->low) & LOW_BITS;
    if (gap < coder->range) { /* the interval reaches a whole window: only a carry */
        if (coder->low)
            for (long i = coder->n - 1; i >= 0 && ++coder->bytes[i] == 0; i--)
                ;
    } else if (coder->n < coder->room)
        coder->bytes[coder->n++] = (uint8_t)((coder->low + LEAST - 1) >> (WINDOW - 8));
    while (coder->n && coder->bytes[coder->n - 1] == 0)
        coder->n--;
}

typedef struct {
    const uint8_t *bytes;
    long n, at;
    uint64_t value, range;
} Decoder;

static uint64_t next_byte(Decoder *coder)
{
    const uint64_t byte = coder->at < coder->n ? coder->bytes[coder->at] : 0;
    coder->at++;
    return byte;
}

static uint64_t target(Decoder *coder, uint64_t total)
{
    const uint64_t found = coder->value / (coder->range / total);
    return found < total ? found : total - 1;
}

static void take(Decoder *coder, uint64_t from, uint64_t count, uint64_t total)
{
    const uint64_t unit = coder->range / total;
    coder->value -= unit * from;
    coder->range = unit * count;
    while (coder->range < LEAST) {
        coder->value = (coder->value << 8 | next_byte(coder)) & LOW_BITS;
        coder->range <<= 8;
    }
}

/* -- whether a frame has this layer: counted adaptively, in four contexts -------------------- */

typedef struct {
    uint32_t counts[4][2];
} Presence;

static void presence_clear(Presence *presence)
{
    for (int i = 0; i < 4; i++) { /* what was so in the frame before is likely so again */
        presence->counts[i][0] = i & 1 ? 1 : 6;
        presence->counts[i][1] = i & 1 ? 6 : 1;
    }
}

/* -- interface ------------------------------------------------------------------------------- */

typedef struct {
    Layer layer;
    long n, n_frames; /* frames of all channels, of one channel */
    int optional;
    Py_buffer weights, bias, past, base, below, codes;
    Table table;
    Kernel kernel;
} Job;

static void job_clear(Job *job)
{
    Py_buffer *all[] = {&job->weights, &job->bias, &job->past, &job->base, &job->below, &job->codes};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->obj)
            PyBuffer_Release(all[i]);
    free(job->table.logits);
    free(job->table.counts);
    free(job->table.sums);
}

static int job_check(Job *job)
{
    Layer *layer = &job->layer;
    const long size = layer->size, hidden = layer->hidden;
    layer->padded = (size + GROUP - 1) / GROUP * GROUP;
    if (size < 2 || size > 32768 || hidden < 2 || hidden > MAX_HIDDEN || hidden % 2 ||
        job->n < 0 || job->n_frames < 1 || job->n % job->n_frames || layer->shift < 0 ||
        layer->shift > 31 || layer->memory < 0 || layer->memory > MAX_MEMORY ||
        layer->precision < 8 || layer->precision > 24 ||
        job->weights.len != layer->padded * hidden * 2 || job->bias.len != layer->padded * 4 ||
        job->past.len != layer->memory * size * hidden * 4 ||
        job->base.len != job->n * hidden * 4 || job->below.len != job->n ||
        job->codes.len != job->n * 2) {
        PyErr_SetString(PyExc_ValueError, "arrays of the wrong size");
        return 0;
    }
    layer->weights = job->weights.buf;
    layer->bias = job->bias.buf;
    layer->past = job->past.buf;
    job->table.logits = malloc(layer->padded * sizeof(int32_t));
    job->table.counts = malloc(layer->padded * sizeof(uint32_t));
    job->table.sums = malloc(layer->padded / GROUP * sizeof(uint64_t));
    if (!job->table.logits || !job->table.counts || !job->table.sums) {
        PyErr_NoMemory();
        return 0;
    }
    job->kernel = best_kernel();
    return 1;
}

#define JOB_FORMAT "(lllllllp)y*y*y*y*y*"
#define JOB_ARGS(job)                                                                              \
    &(job).n, &(job).n_frames, &(job).layer.size, &(job).layer.hidden, &(job).layer.shift,         \
        &(job).layer.memory, &(job).layer.precision, &(job).optional, &(job).weights, &(job).bias, &(job).past,            \
        &(job).base, &(job).below

/* In which context the presence of a code is counted: what was so one frame before. */
static inline int presence_context(const uint8_t *below, const uint16_t *codes, long before)
{
    return before ? 2 * (below[-1] != 0) + (codes[-1] != ABSENT) : 0;
}

static PyObject *encode(PyObject *self, PyObject *args)
{
    (void)self;
    Job job = {0};
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, JOB_FORMAT "y*", JOB_ARGS(job), &job.codes))
        return NULL;
    if (!job_check(&job)) {
        job_clear(&job);
        return NULL;
    }
    const Layer *layer = &job.layer;
    const uint16_t *codes = job.codes.buf;
    const uint8_t *below = job.below.buf;
    for (long t = 0; t < job.n; t++)
        if (codes[t] == ABSENT ? !job.optional && below[t] : codes[t] >= layer->size || !below[t]) {
            PyErr_SetString(PyExc_ValueError, "a code is out of range");
            job_clear(&job);
            return NULL;
        }
    Encoder coder = {.range = 1ULL << WINDOW, .room = job.n * 6 + 8};
    coder.bytes = malloc(coder.room);
    if (coder.bytes) {
        Py_BEGIN_ALLOW_THREADS
        Presence presence;
        presence_clear(&presence);
        for (long t = 0; t < job.n; t++) {
            const long before = t % job.n_frames;
            if (!below[t])
                continue;
            if (job.optional) {
                uint32_t *seen =
                    presence.counts[presence_context(below + t, codes + t, before)];
                const int there = codes[t] != ABSENT;
                put(&coder, there ? seen[0] : 0, seen[there], seen[0] + seen[1]);
                seen[there] += 2;
                if (!there)
                    continue;
            }
            int16_t active[MAX_HIDDEN];
            activate(layer, (const int32_t *)job.base.buf + t * layer->hidden, codes + t, before,
                     active);
            fill(&job.kernel, layer, active, &job.table);
            uint64_t from = 0;
            const long code = codes[t];
            for (long g = 0; g < code / GROUP; g++)
                from += job.table.sums[g];
            for (long k = code / GROUP * GROUP; k < code; k++)
                from += job.table.counts[k];
            put(&coder, from, job.table.counts[code], job.table.total);
        }
        finish(&coder);
        Py_END_ALLOW_THREADS
        result = PyBytes_FromStringAndSize((const char *)coder.bytes, coder.n);
        free(coder.bytes);
    } else
        PyErr_NoMemory();
    job_clear(&job);
    return result;
}

static PyObject *decode(PyObject *self, PyObject *args)
{
    (void)self;
    Job job = {0};
    Py_buffer data = {0};
    if (!PyArg_ParseTuple(args, JOB_FORMAT "w*y*", JOB_ARGS(job), &job.codes, &data))
        return NULL;
    if (!job_check(&job)) {
        job_clear(&job);
        PyBuffer_Release(&data);
        return NULL;
    }
    const Layer *layer = &job.layer;
    uint16_t *codes = job.codes.buf;
    const uint8_t *below = job.below.buf;
    int exact;
    Py_BEGIN_ALLOW_THREADS
    Decoder coder = {.bytes = data.buf, .n = data.len, .range = 1ULL << WINDOW};
    for (int i = 0; i < WINDOW / 8; i++)
        coder.value = coder.value << 8 | next_byte(&coder);
    Presence presence;
    presence_clear(&presence);
    for (long t = 0; t < job.n; t++) {
            const long before = t % job.n_frames;
        codes[t] = ABSENT;
        if (!below[t])
            continue;
        if (job.optional) {
            uint32_t *seen = presence.counts[presence_context(below + t, codes + t, before)];
            const uint64_t total = seen[0] + seen[1];
            const int there = target(&coder, total) >= seen[0];
            take(&coder, there ? seen[0] : 0, seen[there], total);
            seen[there] += 2;
            if (!there)
                continue;
        }
        int16_t active[MAX_HIDDEN];
        activate(layer, (const int32_t *)job.base.buf + t * layer->hidden, codes + t, before,
                     active);
        fill(&job.kernel, layer, active, &job.table);
        const uint64_t at = target(&coder, job.table.total);
        uint64_t from = 0;
        long k = 0;
        for (; from + job.table.sums[k / GROUP] <= at; k += GROUP)
            from += job.table.sums[k / GROUP];
        for (; from + job.table.counts[k] <= at; k++)
            from += job.table.counts[k];
        codes[t] = (uint16_t)k;
        take(&coder, from, job.table.counts[k], job.table.total);
    }
    /* Only the bytes that `finish` would have left are right: the interval's first multiple of
     * LEAST, or of the whole window, and no byte more. */
    uint64_t window = 0;
    for (int i = WINDOW / 8; i > 0; i--)
        window = window << 8 | (coder.at - i < coder.n ? coder.bytes[coder.at - i] : 0);
    const uint64_t low = (window - coder.value) & LOW_BITS;
    const uint64_t gap = (LOW_BITS + 1 - low) & LOW_BITS;
    const uint64_t rest = gap < coder.range ? gap : (LEAST - low % LEAST) % LEAST;
    exact = coder.value == rest && coder.n <= coder.at - WINDOW / 8 + (gap >= coder.range) &&
            (coder.n == 0 || coder.bytes[coder.n - 1] != 0);
    Py_END_ALLOW_THREADS
    job_clear(&job);
    PyBuffer_Release(&data);
    return PyBool_FromLong(exact);
}

static PyObject *kernels(PyObject *self, PyObject *args)
{
    (void)self, (void)args;
    Kernel all[MAX_KERNELS];
    const int n = list_kernels(all);
    PyObject *names = PyTuple_New(n);
    for (int i = 0; names && i < n; i++) {
        PyObject *name = PyUnicode_FromString(all[i].name);
        if (!name || PyTuple_SetItem(names, i, name)) {
            Py_DECREF(names);
            return NULL;
        }
    }
    return names;
}

/* The kernel of a number, in the order of `kernels`. */
static int chosen(long number, Kernel *kernel)
{
    Kernel all[MAX_KERNELS];
    if (number < 0 || number >= list_kernels(all)) {
        PyErr_SetString(PyExc_ValueError, "no such kernel");
        return 0;
    }
    *kernel = all[number];
    return 1;
}

/* The frequencies of every codeword in the last of the frames; its own code may be anything. */
static PyObject *frequencies(PyObject *self, PyObject *args)
{
    (void)self;
    Job job = {0};
    Py_buffer out = {0};
    long number;
    if (!PyArg_ParseTuple(args, JOB_FORMAT "y*w*l", JOB_ARGS(job), &job.codes, &out, &number))
        return NULL;
    PyObject *result = NULL;
    const uint16_t *codes = job.codes.buf;
    const long last = job.n - 1;
    if (!job_check(&job) || !chosen(number, &job.kernel))
        ;
    else if (job.n < 1 || job.n != job.n_frames || out.len != job.layer.size * 4)
        PyErr_SetString(PyExc_ValueError, "arrays of the wrong size");
    else {
        int bad = 0;
        for (long i = 0; i < last; i++)
            bad |= codes[i] != ABSENT && codes[i] >= job.layer.size;
        if (bad)
            PyErr_SetString(PyExc_ValueError, "a code is out of range");
        else {
            int16_t active[MAX_HIDDEN];
            activate(&job.layer, (const int32_t *)job.base.buf + last * job.layer.hidden,
                     codes + last, last, active);
            fill(&job.kernel, &job.layer, active, &job.table);
            memcpy(out.buf, job.table.counts, out.len);
            result = Py_NewRef(Py_None);
        }
    }
    job_clear(&job);
    PyBuffer_Release(&out);
    return result;
}

/* Sums of a bias and products with integers, for several rows of inputs. */
static PyObject *apply(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer weights = {0}, bias = {0}, inputs = {0}, out = {0};
    long n, pairs, size, number;
    Kernel kernel;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "(llll)y*y*y*w*", &number, &n, &pairs, &size, &weights, &bias,
                          &inputs, &out))
        return NULL;
    const long padded = size > 0 ? (size + GROUP - 1) / GROUP * GROUP : 0;
    int32_t *sums = NULL;
    if (!chosen(number, &kernel))
        ;
    else if (n < 0 || pairs < 1 || pairs > 1L << 20 || size < 1 || size > 32768 ||
        weights.len != padded * pairs * 4 || bias.len != padded * 4 ||
        inputs.len != n * pairs * 4 || out.len != n * size * 4)
        PyErr_SetString(PyExc_ValueError, "arrays of the wrong size");
    else if (!(sums = malloc(padded * sizeof *sums)))
        PyErr_NoMemory();
    else {
        Py_BEGIN_ALLOW_THREADS
        for (long i = 0; i < n; i++) {
            kernel.product(weights.buf, bias.buf, (const int16_t *)inputs.buf + i * pairs * 2, pairs,
                    padded, sums);
            memcpy((int32_t *)out.buf + i * size, sums, size * sizeof *sums);
        }
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
    free(sums);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&bias);
    PyBuffer_Release(&inputs);
    PyBuffer_Release(&out);
    return result;
}

/* CRC-8 with the polynomial x^8 + x^2 + x + 1, start 0. */
static PyObject *crc8(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    static uint8_t table[256];
    if (!table[1])
        for (int i = 255; i >= 0; i--) { /* table[1] last: then all of it is there */
            unsigned sum = (unsigned)i;
            for (int bit = 0; bit < 8; bit++)
                sum = (sum << 1) ^ (sum & 128 ? 0x107 : 0);
            table[i] = (uint8_t)sum;
        }
    const uint8_t *byte = data.buf;
    uint8_t sum = 0;
    for (Py_ssize_t i = 0; i < data.len; i++)
        sum = table[sum ^ byte[i]];
    PyBuffer_Release(&data);
    return PyLong_FromLong(sum);
}

/* CRC-24 of OpenPGP: polynomial 0x1864CFB, start 0xB704CE. */
static PyObject *crc24(PyObject *self, PyObject *args)
{
    (void)self;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 256; i-- > 0;) { /* table[1] last: then all of it is there */
            uint32_t sum = i << 16;
            for (int bit = 0; bit < 8; bit++)
                sum = (sum << 1) ^ (sum & 0x800000 ? 0x1864CFB : 0);
            table[i] = sum;
        }
    const uint8_t *byte = data.buf;
    uint32_t sum = 0xB704CE;
    for (Py_ssize_t i = 0; i < data.len; i++)
        sum = ((sum << 8) & 0xFFFFFF) ^ table[sum >> 16 ^ byte[i]];
    PyBuffer_Release(&data);
    return PyLong_FromLong((long)sum);
}

static PyMethodDef METHODS[] = {
    {"encode", encode, METH_VARARGS, "Codes of one layer and channel to bytes."},
    {"decode", decode, METH_VARARGS, "Bytes to codes; whether every byte was as it must be."},
    {"frequencies", frequencies, METH_VARARGS, "Frequencies of all codewords in one frame."},
    {"kernels", kernels, METH_NOARGS, "Names of those that run here, fastest first."},
    {"apply", apply, METH_VARARGS, "Sums of a bias and products with rows of inputs."},
    {"crc8", crc8, METH_VARARGS, "Check byte of bytes, in files of version 2."},
    {"crc24", crc24, METH_VARARGS, "Check of bytes."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&MODULE);
}
