// Attention of many queries in bfloat16, with scores and sums in fp32: softmax(queries keys^T scale + mask) values.
// H heads, of which `sharing` have the same keys and values, Q queries, L keys, D head width (even).
//
// Each query's sums have one order, whatever the others are. NaN in a key or value reaches every query that is not kept
// from it by how many keys there are.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#define thread_number() omp_get_thread_num()
#else
#define thread_number() 0
#endif

#define WIDE 32     // columns that are multiplied together
#define TOGETHER 12 // queries that are
#define HIDDEN -1e30f

typedef struct {
    const uint16_t *queries, *keys, *values, *mask; // numbers of a head lie together, the mask's of a query
    float *out;                                     // [Q][H][D] fp32
    int64_t heads, sharing, num_queries, num_keys, width;
    int64_t query_head, query_row, key_head, key_row, value_head, value_row, mask_row; // distances, in numbers
    float scale;
} Attention;

// gcc copies a register for its own intrinsic of this instruction, which takes twice the time.
#define MULTIPLY(sum, left, right) __asm__("vdpbf16ps %1, %2, %0" : "+v"(sum) : "v"(left), "v"(right))
#define EACH_1(do) do(0)
#define EACH_2(do) EACH_1(do) do(1)
#define EACH_4(do) EACH_2(do) do(2) do(3)
#define EACH_8(do) EACH_4(do) do(4) do(5) do(6) do(7)
#define EACH_12(do) EACH_8(do) do(8) do(9) do(10) do(11)
#define BEGIN(row) __m512 lower##row = _mm512_setzero_ps(), upper##row = _mm512_setzero_ps();
#define STEP(row)                                                                                                      \
    {                                                                                                                  \
        int32_t two;                                                                                                   \
        memcpy(&two, rows + (row) * stride + 2 * pair, 4);                                                             \
        const __m512i both = _mm512_set1_epi32(two);                                                                   \
        MULTIPLY(lower##row, both, lower);                                                                             \
        MULTIPLY(upper##row, both, upper);                                                                             \
    }
#define END(row)                                                                                                       \
    _mm512_storeu_ps(out + (row) * out_stride, lower##row);                                                            \
    _mm512_storeu_ps(out + (row) * out_stride + 16, upper##row);
// Rows of pairs times `pairs` pairs of 32 columns, [pairs][32][2].
#define TILE(count)                                                                                                    \
    static void tile_##count(const uint16_t *rows, int64_t stride, int64_t pairs, const uint16_t *columns, float *out, \
                             int64_t out_stride)                                                                       \
    {                                                                                                                  \
        EACH_##count(BEGIN)                                                                                            \
        for (int64_t pair = 0; pair < pairs; pair++, columns += 2 * WIDE) {                                            \
            const __m512i lower = _mm512_loadu_si512(columns), upper = _mm512_loadu_si512(columns + WIDE);             \
            EACH_##count(STEP)                                                                                         \
        }                                                                                                              \
        EACH_##count(END)                                                                                              \
    }
TILE(1) TILE(2) TILE(4) TILE(8) TILE(12)

static void multiply(const uint16_t *rows, int64_t stride, int count, int64_t pairs, const uint16_t *columns,
                     float *out, int64_t out_stride)
{
    while (count > 0) {
        const int some = count >= 12 ? 12 : count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
        switch (some) {
        case 12: tile_12(rows, stride, pairs, columns, out, out_stride); break;
        case 8: tile_8(rows, stride, pairs, columns, out, out_stride); break;
        case 4: tile_4(rows, stride, pairs, columns, out, out_stride); break;
        case 2: tile_2(rows, stride, pairs, columns, out, out_stride); break;
        default: tile_1(rows, stride, pairs, columns, out, out_stride);
        }
        rows += some * stride, out += some * out_stride, count -= some;
    }
}

// Keys [L][D] -> [L / 32][D / 2][32][2], values -> [D / 32][L / 2][32][2], with zeros where there are none.
static void lay_out(const Attention *a, const uint16_t *keys, const uint16_t *values, uint16_t *columns, uint16_t *rows)
{
    const int64_t pairs = a->width / 2, key_pairs = (a->num_keys + 1) / 2;
    for (int64_t key = 0; key < (a->num_keys + WIDE - 1) / WIDE * WIDE; key++)
        for (int64_t pair = 0; pair < pairs; pair++) {
            uint16_t *to = columns + ((key / WIDE * pairs + pair) * WIDE + key % WIDE) * 2;
            if (key < a->num_keys)
                memcpy(to, keys + key * a->key_row + 2 * pair, 4);
            else
                memset(to, 0, 4);
        }
    for (int64_t first = 0; first < a->width; first += WIDE)
        for (int64_t pair = 0; pair < key_pairs; pair++)
            for (int64_t i = 0; i < WIDE; i++) {
                uint16_t *to = rows + ((first / WIDE * key_pairs + pair) * WIDE + i) * 2;
                const uint16_t *from = values + 2 * pair * a->value_row + first + i;
                const int is_there = first + i < a->width;
                to[0] = is_there ? from[0] : 0;
                to[1] = is_there && 2 * pair + 1 < a->num_keys ? from[a->value_row] : 0;
            }
}

// e^x for x <= 0, to 2e-7 of its size; NaN stays NaN.
static inline __m512 exponential(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(-200), x); // what is smaller is zero; of NaN and a number max gives the second
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    static const float terms[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1, 1};
    __m512 sum = _mm512_set1_ps(terms[0]);
    for (int i = 1; i < 7; i++)
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(sum, whole);
}

static inline __m512 wide(const uint16_t *numbers, __mmask16 lanes)
{
    const __m256i halves = _mm256_maskz_loadu_epi16(lanes, numbers);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Scores [L] -> their exponentials in bfloat16, with zeros up to a multiple of 2; returns 1 / their sum.
static float weigh(float *scores, int64_t num_keys, float scale, const uint16_t *mask, uint16_t *weights)
{
    __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (int64_t key = 0; key < num_keys; key += 16) {
        const __mmask16 lanes = num_keys - key >= 16 ? 0xFFFF : (__mmask16)((1 << (num_keys - key)) - 1);
        __m512 score = _mm512_mul_ps(_mm512_loadu_ps(scores + key), _mm512_set1_ps(scale));
        if (mask)
            score = _mm512_add_ps(score, wide(mask + key, lanes));
        score = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), lanes, score);
        _mm512_storeu_ps(scores + key, score);
        most = _mm512_max_ps(score, most);
    }
    const __m512 largest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (int64_t key = 0; key < num_keys; key += 16) {
        const __m512 weight = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + key), largest));
        sum = _mm512_add_ps(sum, weight);
        _mm256_storeu_si256((void *)(weights + key), (__m256i)_mm512_cvtneps_pbh(weight));
    }
    return 1 / _mm512_reduce_add_ps(sum);
}

// How many keys any of some queries sees; all of them where one sees none, as all weigh alike to it.
static int64_t last_seen(const Attention *a, int64_t query, int count)
{
    int64_t most = a->mask ? 0 : a->num_keys;
    for (int row = 0; a->mask && row < count; row++) {
        const uint16_t *mask = a->mask + (query + row) * a->mask_row;
        int64_t end = a->num_keys;
        while (end && !(_mm512_cvtss_f32(wide(mask + end - 1, 1)) > HIDDEN))
            end--;
        if (!end)
            return a->num_keys;
        most = end > most ? end : most;
    }
    return most;
}

int64_t room(const Attention *a)
{
    const int64_t keys = (a->num_keys + WIDE - 1) / WIDE * WIDE, width = (a->width + WIDE - 1) / WIDE * WIDE;
    return 2 * keys * (a->width + width) + TOGETHER * (4 * keys + 2 * keys + 4 * width) + 256; // bytes
}

void attend_many(const Attention *a, char *memory, int threads)
{
    const int64_t keys = (a->num_keys + WIDE - 1) / WIDE * WIDE, width = (a->width + WIDE - 1) / WIDE * WIDE;
    const int64_t bytes = room(a), pairs = a->width / 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t group = 0; group < a->heads / a->sharing; group++) {
        float *scores = (float *)(memory + thread_number() * bytes), *sums = scores + TOGETHER * keys;
        uint16_t *weights = (uint16_t *)(sums + TOGETHER * width);
        uint16_t *columns = weights + TOGETHER * keys, *rows = columns + keys * a->width;
        lay_out(a, a->keys + group * a->key_head, a->values + group * a->value_head, columns, rows);
        for (int64_t query = 0; query < a->num_queries; query += TOGETHER) {
            const int count = a->num_queries - query < TOGETHER ? (int)(a->num_queries - query) : TOGETHER;
            const int64_t seen = last_seen(a, query, count);
            for (int64_t head = group * a->sharing; head < (group + 1) * a->sharing; head++) {
                const uint16_t *own = a->queries + head * a->query_head + query * a->query_row;
                float shares[TOGETHER];
                for (int64_t key = 0; key < seen; key += WIDE)
                    multiply(own, a->query_row, count, pairs, columns + key * a->width, scores + key, keys);
                for (int row = 0; row < count; row++)
                    shares[row] = weigh(scores + row * keys, seen, a->scale,
                                        a->mask ? a->mask + (query + row) * a->mask_row : 0, weights + row * keys);
                for (int64_t first = 0; first < a->width; first += WIDE)
                    multiply(weights, keys, count, (seen + 1) / 2, rows + first * ((a->num_keys + 1) / 2) * 2,
                             sums + first, width);
                for (int row = 0; row < count; row++)
                    for (int64_t i = 0; i < a->width; i++)
                        a->out[((query + row) * a->heads + head) * a->width + i] = sums[row * width + i] * shares[row];
            }
        }
    }
}
