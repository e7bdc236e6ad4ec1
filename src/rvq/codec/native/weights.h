/* Memory and weights of a network: matrices are packed into panels, as half precision where that
 * loses nothing, because one frame at a time the time to read them is what counts.
 */
#define HUGE_PAGE (2L << 20)
#define PIECE (2 * HUGE_PAGE)
#define MOST_PIECES 256
#define PANEL 32 /* columns side by side in packed matrices; a multiple of every 2 * LANES */
#define ROUND_UP(n) (((n) + PANEL - 1) / PANEL * PANEL)

typedef struct {
    long k, padded;     /* inputs; outputs rounded up to whole panels */
    int half;           /* whether the panels hold float16 */
    const void *panels; /* [padded / PANEL][k][PANEL] */
    const float *bias;  /* [padded] */
} Matrix;

/* All that was allocated for a network. */
typedef struct {
    int half; /* whether matrices may be float16 */
    void *pieces[MOST_PIECES];
    int n;
    char *free; /* in the last of them */
    size_t left;
} Memory;

static void release(Memory *memory)
{
    for (int i = 0; i < memory->n; i++)
        free(memory->pieces[i]);
}

/* Zeros that live as long as the network, at the start of a cache line. Cut from large pieces that
 * may lie in huge pages, because one frame reads all weights once. */
static void *allocate(Memory *memory, size_t size)
{
    const size_t needed = (size + 63) / 64 * 64 + 64, piece = needed > PIECE ? needed : PIECE;
    if (needed > memory->left) {
        void *more = NULL;
        if (memory->n == MOST_PIECES || posix_memalign(&more, HUGE_PAGE, piece))
            return PyErr_NoMemory();
#ifdef MADV_HUGEPAGE
        madvise(more, piece, MADV_HUGEPAGE);
#endif
        memset(more, 0, piece);
        memory->pieces[memory->n++] = memory->free = more;
        memory->left = piece;
    }
    void *found = memory->free;
    memory->free += needed;
    memory->left -= needed;
    return found;
}

/* Float16 of a number that is one; -1 for any other. */
static long as_half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
    if (size >= 0x38800000 && size < 0x47800000) /* normal */
        return size & 0x1FFF ? -1 : (long)(sign | ((size - 0x38000000) >> 13));
    const float steps = fabsf(x) * 16777216.0f;
    if (!(steps < 1024) || steps != floorf(steps))
        return -1;
    return (long)(sign | (uint32_t)steps);
}

typedef struct {
    PyObject *tensors;
    Py_ssize_t next;
} Source;

/* The next tensor, of so many floats; NULL with an exception set if it is not. */
static int take(Source *source, long n, Py_buffer *buffer)
{
    PyObject *tensor = PyTuple_GetItem(source->tensors, source->next++);
    if (!tensor || PyObject_GetBuffer(tensor, buffer, PyBUF_SIMPLE) < 0)
        return 0;
    if (buffer->len == n * 4)
        return 1;
    PyErr_Format(PyExc_ValueError, "tensor %zd holds %zd bytes, not %ld", source->next - 1,
                 buffer->len, n * 4);
    PyBuffer_Release(buffer);
    return 0;
}

/* Rows of floats, each padded with zeros. */
static int take_rows(Memory *memory, Source *source, long rows, long n, long padded, const float **out)
{
    Py_buffer buffer;
    if (!take(source, rows * n, &buffer))
        return 0;
    float *to = allocate(memory, rows * padded * sizeof *to);
    for (long row = 0; to && row < rows; row++)
        memcpy(to + row * padded, (const float *)buffer.buf + row * n, n * sizeof *to);
    PyBuffer_Release(&buffer);
    *out = to;
    return to != NULL;
}

/* A matrix `[n][k]` as torch keeps it, then its bias if it has one. */
static int take_matrix(Memory *memory, Source *source, long k, long n, int biased, Matrix *m)
{
    Py_buffer buffer;
    if (!take(source, n * k, &buffer))
        return 0;
    const float *from = buffer.buf;
    m->k = k;
    m->padded = ROUND_UP(n);
    m->half = memory->half;
    for (long i = 0; m->half && i < n * k; i++)
        m->half = as_half(from[i]) >= 0;
    void *panels = allocate(memory, m->padded * k * (m->half ? 2 : 4));
    for (long row = 0; panels && row < n; row++)
        for (long d = 0; d < k; d++) {
            const long at = (row / PANEL * k + d) * PANEL + row % PANEL;
            if (m->half)
                ((uint16_t *)panels)[at] = (uint16_t)as_half(from[row * k + d]);
            else
                ((float *)panels)[at] = from[row * k + d];
        }
    PyBuffer_Release(&buffer);
    m->panels = panels;
    if (!panels)
        return 0;
    if (biased)
        return take_rows(memory, source, 1, n, m->padded, &m->bias);
    m->bias = allocate(memory, m->padded * sizeof *m->bias);
    return m->bias != NULL;
}
