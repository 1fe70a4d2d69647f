// Weights -> 4-bit codes and scales, bit by bit as models/tensors/bnb_nf4.py makes them with torch.
#include <immintrin.h>
#include <stdint.h>

#define BLOCK 64     // weights that share a scale
#define LEAST 1e-38f // a block of zeros is divided by this
enum Format { FP32, BF16, FP16 };

static inline __m512 load(const void *values, int64_t index, int format)
{
    if (format == FP32)
        return _mm512_loadu_ps((const float *)values + index);
    const __m256i halves = _mm256_loadu_si256((const void *)((const uint16_t *)values + index));
    if (format == FP16)
        return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// How many of the 15 limits are not at or above each number: all of them for NaN, as a comparison with it is false.
static inline __m512i ranks_of(__m512 numbers, __m512 limits)
{
    __m512i ranks = _mm512_setzero_si512();
    for (int step = 8; step; step /= 2) {
        const __m512i next = _mm512_add_epi32(ranks, _mm512_set1_epi32(step));
        const __m512i probe = _mm512_sub_epi32(next, _mm512_set1_epi32(1));
        const __mmask16 is_above = _mm512_cmp_ps_mask(numbers, _mm512_permutexvar_ps(probe, limits), _CMP_NLE_UQ);
        ranks = _mm512_mask_mov_epi32(ranks, is_above, next);
    }
    return ranks;
}

// `count` blocks: values -> two ranks a byte, the first in the upper half; scales. `limits` are 15 and any other.
void block_codes(const void *values, int format, int64_t count, const float *limits, uint8_t *codes, float *scales)
{
    const __m512 all = _mm512_loadu_ps(limits), nothing = _mm512_setzero_ps();
    const __m512i pairs = _mm512_set1_epi64(0xF);
    for (int64_t block = 0; block < count; block++, codes += BLOCK / 2) {
        __m512 numbers[BLOCK / 16], most = nothing, wrong = nothing;
        for (int i = 0; i < BLOCK / 16; i++) {
            numbers[i] = load(values, block * BLOCK + 16 * i, format);
            most = _mm512_max_ps(_mm512_abs_ps(numbers[i]), most);
            wrong = _mm512_mask_mov_ps(wrong, _mm512_cmp_ps_mask(numbers[i], numbers[i], _CMP_UNORD_Q), numbers[i]);
        }
        float largest = _mm512_reduce_max_ps(most);
        const __mmask16 is_nan = _mm512_cmp_ps_mask(wrong, wrong, _CMP_UNORD_Q);
        if (is_nan)
            largest = __builtin_nanf("");
        scales[block] = largest;
        const __m512 by = _mm512_set1_ps(1.0f / (largest < LEAST ? LEAST : largest)); // NaN stays NaN
        for (int i = 0; i < BLOCK / 16; i++) {
            const __m512i ranks = ranks_of(_mm512_mul_ps(numbers[i], by), all);
            // Of each 64 bits, the first rank is in the lower half and the second in the upper.
            const __m512i joined = _mm512_or_si512(_mm512_slli_epi64(_mm512_and_si512(ranks, pairs), 4),
                                                   _mm512_srli_epi64(ranks, 32));
            _mm_storel_epi64((void *)(codes + 8 * i), _mm512_cvtepi64_epi8(joined));
        }
    }
}

// Codes [N][K / 2] -> bitsandbytes' layout for CPUs, [N / 32][K / 2][16][2]: of 32 rows, the first byte of a pair has the
// first code of row r below the one of row r + 16, the second the second ones. N is a multiple of 32, `half` is K / 2.
void lay_out(const uint8_t *codes, int64_t n, int64_t half, uint8_t *out)
{
    for (int64_t block = 0; block < n; block += 32, codes += 32 * half, out += 32 * half)
        for (int row = 0; row < 16; row++) {
            const uint8_t *first = codes + row * half, *later = first + 16 * half;
            for (int64_t i = 0; i < half; i++) {
                out[i * 32 + row * 2] = (later[i] & 0xF0) | (first[i] >> 4);
                out[i * 32 + row * 2 + 1] = (uint8_t)(later[i] << 4) | (first[i] & 0x0F);
            }
        }
}
