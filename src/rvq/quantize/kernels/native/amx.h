/* Products of bytes and of bfloat16 numbers in matrix registers: eight tiles of 16 rows of up to 64
 * bytes each. */
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET_AMX                                                                                 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,"              \
                          "amx-tile,amx-int8,amx-bf16")))

/* Whether the processor has them, the system saves them, and lets this process use them. */
static int amx_permitted(void)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, ALL = BF16 | TILE | INT8 };
    enum { OSXSAVE = 1 << 27, STATES = 3 << 17, DATA = 18, ARCH_REQ_XCOMP_PERM = 0x1023 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE) ||
        !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & ALL) != ALL)
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & STATES) == STATES && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, DATA);
}

/* Tiles 0 to 3 for sums of 16 rows and 16 codewords; 4 and 5 for rows; 6 and 7 for codewords.
 * Returns how many of a vector's groups of four bytes go into one. */
TARGET_AMX static long shape_tiles(long groups)
{
    const long deep = groups / ((groups + 15) / 16);
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.rows[tile] = tile < 6 ? 16 : (uint8_t)deep;
        shape.row_bytes[tile] = tile == 4 || tile == 5 ? (uint16_t)(4 * deep) : 64;
    }
    /* To gcc 12's intrinsics only 8 bytes of the shape matter, and no writes before a load of tiles. */
    __asm__ volatile("ldtilecfg %0" : : "m"(shape) : "memory");
    return deep;
}

/* Adds the products of 32 rows, or 16, and of a panel. */
#define ADD_TILES(MULTIPLY, rows_left, groups, deep, from, panel)                                  \
    for (long g = 0; g < (groups); g += (deep)) {                                                  \
        _tile_loadd(4, (from) + 4 * g, 4 * (groups));                                              \
        _tile_loadd(6, (panel) + 4 * PANEL * g, 4 * PANEL);                                        \
        _tile_loadd(7, (panel) + 4 * PANEL * g + 64, 4 * PANEL);                                   \
        MULTIPLY(0, 4, 6);                                                                         \
        MULTIPLY(1, 4, 7);                                                                         \
        if ((rows_left) > 16) {                                                                    \
            _tile_loadd(5, (from) + 4 * (16 * (groups) + g), 4 * (groups));                        \
            MULTIPLY(2, 5, 6);                                                                     \
            MULTIPLY(3, 5, 7);                                                                     \
        }                                                                                          \
    }

/* Writes the sums to the rows of `to`, `stride` apart. */
#define STORE_TILES(rows_left, to, stride)                                                         \
    _tile_stored(0, (to), 4 * (stride));                                                           \
    _tile_stored(1, (to) + 16, 4 * (stride));                                                      \
    if ((rows_left) > 16) {                                                                        \
        _tile_stored(2, (to) + 16 * (stride), 4 * (stride));                                       \
        _tile_stored(3, (to) + 16 * (stride) + 16, 4 * (stride));                                  \
    }

/* As `multiply_vnni`. */
TARGET_AMX static void multiply_amx(const Rounded *x, long rows, const Books *books, long stage,
                                    int32_t *products)
{
    const long quads = books->quads, padded = books->padded, deep = shape_tiles(quads);
    for (long k = 0; k < padded; k += PANEL) {
        const uint8_t *panel = books->packed8 + (stage * padded + k) * quads * 4;
        for (long row = 0; row < rows; row += 32) {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            ADD_TILES(_tile_dpbsud, rows - row, quads, deep, x->bytes + row * quads * 4, panel);
            STORE_TILES(rows - row, products + row * padded + k, padded);
        }
    }
    _tile_release();
}

/* As `scores_bf16`. */
TARGET_AMX static void scores_bf16_amx(const float *x, long rows, const Books *books, long stage,
                                       float *scores, long stride)
{
    const long pairs = books->pairs, padded = books->padded;
    const uint8_t *narrow = (uint8_t *)(scores + CHUNK * stride);
    narrow_rows(x, rows, books, (uint16_t *)narrow);
    const long deep = shape_tiles(pairs);
    for (long k = 0; k < padded; k += PANEL) {
        const uint8_t *panel = (uint8_t *)(books->packed16 + (stage * padded + k) * pairs * 2);
        const float *offsets = books->offsets + stage * padded + k;
        for (long row = 0; row < rows; row += 32) {
            _tile_loadd(0, offsets, 0); /* the same in every row */
            _tile_loadd(1, offsets + 16, 0);
            _tile_loadd(2, offsets, 0);
            _tile_loadd(3, offsets + 16, 0);
            ADD_TILES(_tile_dpbf16ps, rows - row, pairs, deep, narrow + row * pairs * 4, panel);
            STORE_TILES(rows - row, scores + row * stride + k, stride);
        }
    }
    _tile_release();
}
