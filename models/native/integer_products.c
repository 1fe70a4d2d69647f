// Products of many tokens with weights of 8 and 4 bits, as sums of integers: what models/quantized computes with torch,
// without writing anything in between. N outputs, K inputs (a multiple of 64), T tokens.
//
// A token is int8 with a size of its own; where its largest number stands far above the others, what rounding has left
// of it is one more row of integers (models/quantized/eight_bits.py). Weights are multiplied as unsigned bytes, 128 above
// what they are, so 128 times the sum of a row is taken away from its results. Sums of integers are exact: a token's
// result is the same to the bit whoever else is there, and whatever the number of threads.
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

#define INLINE static inline __attribute__((always_inline))
#define WIDE 32      // outputs that are multiplied together
#define CHUNK 512    // inputs of them that are unpacked at a time: 16 KiB, which a core's first cache holds
#define AHEAD 2048   // bytes of codes that are fetched before they are needed
#define LEVELS 127.f // of a number above zero
#define LEAST 1e-30f // a row of zeros is divided by this
#define PEAK 8.f     // times the root of the mean square, above which a token has a second row

typedef struct {
    const int8_t *rows; // [T + rests][K]
    const int32_t *sums;
    const float *sizes;
    const int32_t *rests; // [T]: which row is what was left of the token; -1: none
    int64_t tokens, num_rows, k;
} Tokens;

// Where results go: rows of numbers, `stride` of them from one to the next; in fp32 they may be added to what is there.
typedef struct {
    void *numbers;
    int64_t stride;
    int32_t is_bf16, is_adding;
} Results;

INLINE __m512 from_bf16(const uint16_t *numbers)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)numbers)), 16));
}

// To the nearest, of two the even one; NaN stays NaN.
INLINE __m256i to_bf16(__m512 numbers)
{
    const __m512i bits = _mm512_castps_si512(numbers);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7FC00000)), 16));
}

// Numbers -> integers of at most LEVELS for the largest of them; their sum.
static int32_t round_row(const float *numbers, int64_t k, float largest, int8_t *integers)
{
    const __m512 by = _mm512_set1_ps(LEVELS / largest);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < k; i += 16) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(numbers + i), by));
        sum = _mm512_add_epi32(sum, rounded);
        _mm_storeu_si128((void *)(integers + i), _mm512_cvtepi32_epi8(rounded));
    }
    return _mm512_reduce_add_epi32(sum);
}

// The largest absolute value, NaN if one of them is not finite; never zero.
static float largest_of(const float *numbers, int64_t k, float *squares)
{
    __m512 most = _mm512_set1_ps(LEAST), all = _mm512_setzero_ps(), wrong = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 16) {
        const __m512 here = _mm512_loadu_ps(numbers + i);
        most = _mm512_max_ps(most, _mm512_abs_ps(here));
        all = _mm512_fmadd_ps(here, here, all);
        wrong = _mm512_fmadd_ps(here, _mm512_setzero_ps(), wrong);
    }
    *squares = _mm512_reduce_add_ps(all);
    return _mm512_reduce_max_ps(most) + _mm512_reduce_add_ps(wrong);
}

// Tokens [T, K] -> rows of integers, their sums and sizes, and which row is a token's rest; how many rows there are.
int64_t round_tokens(const void *tokens, int is_bf16, int64_t count, int64_t k, float *buffer, int8_t *rows,
                     int32_t *sums, float *sizes, int32_t *rests)
{
    int64_t next = count;
    for (int64_t token = 0; token < count; token++) {
        const float *numbers = is_bf16 ? buffer : (const float *)tokens + token * k;
        for (int64_t i = 0; is_bf16 && i < k; i += 16)
            _mm512_storeu_ps(buffer + i, from_bf16((const uint16_t *)tokens + token * k + i));
        float squares, largest = largest_of(numbers, k, &squares);
        int8_t *row = rows + token * k;
        sums[token] = round_row(numbers, k, largest, row);
        sizes[token] = largest;
        rests[token] = -1;
        if (!(largest > PEAK * sqrtf(squares / (float)k)))
            continue;
        const __m512 step = _mm512_set1_ps(largest / LEVELS);
        for (int64_t i = 0; i < k; i += 16) {
            const __m512 whole = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(row + i))));
            _mm512_storeu_ps(buffer + i, _mm512_fnmadd_ps(whole, step, _mm512_loadu_ps(numbers + i)));
        }
        rests[token] = (int32_t)next;
        sizes[next] = largest_of(buffer, k, &squares);
        sums[next] = round_row(buffer, k, sizes[next], rows + next * k);
        next++;
    }
    return next;
}

// Four inputs of 32 outputs after the other times those of some rows, added to [rows][32]. `lower` and `upper` are the
// first and last 16 outputs, `step` bytes further with each four inputs. gcc copies a register for each of torch's and
// its own intrinsics of this instruction, which takes twice the time.
#define MULTIPLY(sum, weights, inputs) __asm__("vpdpbusd %1, %2, %0" : "+v"(sum) : "v"(inputs), "v"(weights))
#define EACH_1(do) do(0)
#define EACH_2(do) EACH_1(do) do(1)
#define EACH_3(do) EACH_2(do) do(2)
#define EACH_4(do) EACH_3(do) do(3)
#define EACH_6(do) EACH_4(do) do(4) do(5)
#define EACH_8(do) EACH_6(do) do(6) do(7)
#define EACH_12(do) EACH_8(do) do(8) do(9) do(10) do(11)
#define BEGIN(row)                                                                                                     \
    __m512i lower##row = _mm512_loadu_si512(found + (row) * WIDE);                                                     \
    __m512i upper##row = _mm512_loadu_si512(found + (row) * WIDE + 16);
#define STEP(row)                                                                                                      \
    {                                                                                                                  \
        const __m512i inputs = _mm512_set1_epi32(*(const int32_t *)(rows + (row) * k + i));                            \
        MULTIPLY(lower##row, lower, inputs);                                                                           \
        MULTIPLY(upper##row, upper, inputs);                                                                           \
    }
#define END(row)                                                                                                       \
    _mm512_storeu_si512(found + (row) * WIDE, lower##row);                                                             \
    _mm512_storeu_si512(found + (row) * WIDE + 16, upper##row);
#define TILE(count)                                                                                                    \
    static void tile_##count(const int8_t *rows, int64_t k, int64_t chunk, const uint8_t *weights, int64_t step,       \
                             __m512i flip, int32_t *found)                                                             \
    {                                                                                                                  \
        EACH_##count(BEGIN)                                                                                            \
        for (int64_t i = 0; i < chunk; i += 4, weights += step) {                                                      \
            const __m512i lower = _mm512_xor_si512(_mm512_loadu_si512(weights), flip);                                 \
            const __m512i upper = _mm512_xor_si512(_mm512_loadu_si512(weights + 64), flip);                            \
            EACH_##count(STEP)                                                                                         \
        }                                                                                                              \
        EACH_##count(END)                                                                                              \
    }
TILE(1) TILE(2) TILE(3) TILE(4) TILE(6) TILE(8) TILE(12)

#define TRY(size)                                                                                                      \
    if (left >= size) {                                                                                                \
        tile_##size(rows, k, chunk, weights, step, flip, found);                                                       \
        rows += size * k, found += size * WIDE, left -= size;                                                          \
        continue;                                                                                                      \
    }
static void multiply(const int8_t *rows, int64_t left, int64_t k, int64_t chunk, const uint8_t *weights, int64_t step,
                     __m512i flip, int32_t *found)
{
    while (left > 0) {
        TRY(12) TRY(8) TRY(6) TRY(4) TRY(3) TRY(2) TRY(1)
    }
}

// 32 outputs of all tokens, from the output `first` on: sums -> numbers, with scales [32], a bias [32] or none.
static void finish(const Tokens *tokens, const int32_t *found, const float *scales, const float *bias,
                   const Results *out, int64_t first)
{
    for (int half = 0; half < WIDE; half += 16) {
        const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(scales + half), _mm512_set1_ps(1 / LEVELS));
        const __m512 added = bias ? _mm512_loadu_ps(bias + half) : _mm512_setzero_ps();
        for (int64_t token = 0; token < tokens->tokens; token++) {
            __m512 number = _mm512_setzero_ps();
            for (int64_t row = token; row >= 0; row = row < tokens->tokens ? tokens->rests[row] : -1) {
                const __m512i more = _mm512_set1_epi32(128 * tokens->sums[row]);
                const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(found + row * WIDE + half), more);
                const __m512 size = _mm512_mul_ps(scale, _mm512_set1_ps(tokens->sizes[row]));
                number = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), size, number);
            }
            number = _mm512_add_ps(number, added);
            const int64_t place = token * out->stride + first + half;
            if (out->is_adding)
                number = _mm512_add_ps(number, _mm512_loadu_ps((float *)out->numbers + place));
            if (out->is_bf16)
                _mm256_storeu_si256((void *)((uint16_t *)out->numbers + place), to_bf16(number));
            else
                _mm512_storeu_ps((float *)out->numbers + place, number);
        }
    }
}

// The largest scale of each of 32 rows, which stands for LEVELS: [blocks, N] bf16 -> [32].
static void row_scales(const uint16_t *scales, int64_t n, int64_t blocks, float *largest)
{
    __m512 lower = _mm512_set1_ps(LEAST), upper = lower;
    for (int64_t block = 0; block < blocks; block++, scales += n) {
        lower = _mm512_max_ps(lower, from_bf16(scales));
        upper = _mm512_max_ps(upper, from_bf16(scales + 16));
    }
    _mm512_storeu_ps(largest, lower);
    _mm512_storeu_ps(largest + 16, upper);
}

// What 16 rows' levels are multiplied by, twice each: 256 times LEVELS for the largest scale.
INLINE __m512i factors_of(const uint16_t *scales, const float *largest)
{
    const __m512 by = _mm512_div_ps(_mm512_set1_ps(256 * LEVELS), _mm512_loadu_ps(largest));
    const __m512i factors = _mm512_cvtps_epi32(_mm512_mul_ps(from_bf16(scales), by));
    return _mm512_or_si512(factors, _mm512_slli_epi32(factors, 16));
}

// Codes (the lowest 4 bits of each 16; the fifth makes no difference) -> bytes, in the upper half of each 16.
INLINE __m512i numbers_of(__m512i codes, __m512i levels, __m512i factors)
{
    const __m512i product = _mm512_mulhrs_epi16(_mm512_permutexvar_epi16(codes, levels), factors);
    return _mm512_add_epi16(product, _mm512_set1_epi16((short)0x8080)); // 128, and a half for rounding
}

// `chunk` inputs of 32 outputs -> [chunk / 4][32][4] bytes. The codes of a pair of inputs are [16][2] bytes: output r in
// the lower half of a byte, r + 16 in the upper.
static void unpack(const uint8_t *codes, const uint16_t *scales, int64_t n, int64_t chunk, const float *largest,
                   const int16_t *levels, uint8_t *numbers)
{
    const __m512i table = _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)levels));
    const __m512i by_output = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                               6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __mmask64 second = 0xAAAAAAAAAAAAAAAA;
    for (int64_t i = 0; i < chunk; i += 64, scales += n) {
        const __m512i lower = factors_of(scales, largest), upper = factors_of(scales + 16, largest + 16);
        for (int four = 0; four < 16; four++, codes += 64, numbers += 128) {
            _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
            const __m512i here = _mm512_permutexvar_epi16(by_output, _mm512_loadu_si512(codes));
            __m512i even = numbers_of(here, table, lower);
            __m512i odd = numbers_of(_mm512_srli_epi16(here, 8), table, lower);
            _mm512_storeu_si512(numbers, _mm512_mask_blend_epi8(second, _mm512_srli_epi16(even, 8), odd));
            even = numbers_of(_mm512_srli_epi16(here, 4), table, upper);
            odd = numbers_of(_mm512_srli_epi16(here, 12), table, upper);
            _mm512_storeu_si512(numbers + 64, _mm512_mask_blend_epi8(second, _mm512_srli_epi16(even, 8), odd));
        }
    }
}

// Products with bitsandbytes' 4-bit weights in its own layout for CPUs (models/quantized/four_bits.py), `levels` being
// what codes stand for, times 2^15. `found` is [threads][rows][32].
void four_bits(const Tokens *tokens, const uint8_t *codes, const uint16_t *scales, const int16_t *levels,
               const float *bias, int64_t n, int32_t *found, const Results *out, int threads)
{
    const int64_t k = tokens->k, size = tokens->num_rows * WIDE;
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < n; first += WIDE) {
        int32_t *const own = found + thread_number() * size;
        uint8_t numbers[CHUNK * WIDE];
        float largest[WIDE];
        row_scales(scales + first, n, k / 64, largest);
        memset(own, 0, size * sizeof(int32_t));
        for (int64_t i = 0; i < k; i += CHUNK) {
            const int64_t chunk = k - i < CHUNK ? k - i : CHUNK;
            unpack(codes + (first * k + i * WIDE) / 2, scales + first + i / 64 * n, n, chunk, largest, levels, numbers);
            multiply(tokens->rows + i, tokens->num_rows, k, chunk, numbers, 4 * WIDE, _mm512_setzero_si512(), own);
        }
        for (int row = 0; row < WIDE; row++)
            largest[row] *= 1 / LEVELS;
        finish(tokens, own, largest, bias ? bias + first : 0, out, first);
    }
}

// Products with 8-bit weights in oneDNN's layout, [N / 64][K / 4][64][4]. `found` as above.
void eight_bits(const Tokens *tokens, const uint8_t *weights, const float *scales, const float *bias, int64_t n,
                int32_t *found, const Results *out, int threads)
{
    const int64_t k = tokens->k, size = tokens->num_rows * WIDE;
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < n; first += WIDE) {
        int32_t *const own = found + thread_number() * size;
        const uint8_t *here = weights + first / 64 * 64 * k + first % 64 * 4;
        memset(own, 0, size * sizeof(int32_t));
        for (int64_t i = 0; i < k; i += CHUNK) {
            const int64_t chunk = k - i < CHUNK ? k - i : CHUNK;
            multiply(tokens->rows + i, tokens->num_rows, k, chunk, here + i * 64, 256, _mm512_set1_epi8((char)0x80), own);
        }
        finish(tokens, own, scales + first, bias ? bias + first : 0, out, first);
    }
}
