// A decode step of a language model, one token for each chat, as a list of operations: see engine/native/operations.py.
//
// Between the large products of a step PyTorch needs some ten microseconds for each norm, rotation, copy and sum, more
// than a small model's products take. Numbers between products are fp32. What is computed of a token depends on no
// other. T tokens, N outputs, K inputs, D head width.
#include "pages.h"

static void embed(const Operation *op, const Step *step)
{
    const int threads = threads_for(step, (int64_t)step->tokens * op->n * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++) {
        float *target = row_of(step, op->target, token, 0);
        for (int i = 0; i < op->n; i += LANES) {
            const __mmask16 mask = lanes_left(op->n - i);
            const int64_t index = (int64_t)step->ids[token] * op->n + i;
            const __m512 numbers = load_lanes(op->weights, index, op->format == PLAIN_BF16, mask);
            _mm512_mask_storeu_ps(target + i, mask, _mm512_mul_ps(numbers, _mm512_set1_ps(op->value)));
        }
    }
}

// `count` runs of `n` numbers, each by itself; `value` is added to the mean of the squares.
static void norm(const Operation *op, const Step *step)
{
    const float *weights = op->weights;
    const int threads = threads_for(step, (int64_t)step->tokens * op->n * op->count * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++)
        for (int run = 0; run < op->count; run++) {
            const float *from = row_of(step, op->source, token, op->source_column + run * op->n);
            float *to = row_of(step, op->target, token, op->target_column + run * op->n);
            __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
            for (int i = 0; op->flags & CENTRED && i < op->n; i += LANES)
                sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes_left(op->n - i), from + i));
            const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / op->n);
            for (int i = 0; i < op->n; i += LANES) {
                const __mmask16 mask = lanes_left(op->n - i);
                const __m512 off = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, from + i), mean);
                squares = _mm512_fmadd_ps(off, off, squares);
            }
            const __m512 factor = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / op->n + op->value));
            for (int i = 0; i < op->n; i += LANES) {
                const __mmask16 mask = lanes_left(op->n - i);
                __m512 found = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, from + i), mean), factor);
                found = _mm512_mul_ps(found, _mm512_maskz_loadu_ps(mask, weights + i));
                if (op->bias)
                    found = _mm512_add_ps(found, _mm512_maskz_loadu_ps(mask, op->bias + i));
                _mm512_mask_storeu_ps(to + i, mask, found);
            }
        }
}

// The first `n` numbers of `count` heads of width `k`, by the cosines and sines [positions][n / 2] of its position.
static void rotate(const Operation *op, const Step *step)
{
    const int half = op->n / 2;
    const int threads = threads_for(step, (int64_t)step->tokens * op->n * op->count * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++) {
        const float *cosines = (const float *)op->weights + (int64_t)step->positions[token] * half;
        const float *sines = (const float *)op->scales + (int64_t)step->positions[token] * half;
        for (int head = 0; head < op->count; head++) {
            float *first = row_of(step, op->source, token, op->source_column + head * op->k), *second = first + half;
            for (int i = 0; i < half; i++) {
                const float before = first[i], after = second[i];
                first[i] = before * cosines[i] - after * sines[i];
                second[i] = after * cosines[i] + before * sines[i];
            }
        }
    }
}

// SiLU, or GELU by its tanh, of `n` numbers.
static void activate(const Operation *op, const Step *step)
{
    const __m512 one = _mm512_set1_ps(1);
    const int threads = threads_for(step, (int64_t)step->tokens * op->n * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++) {
        const float *from = row_of(step, op->source, token, op->source_column);
        float *to = row_of(step, op->target, token, op->target_column);
        for (int i = 0; i < op->n; i += LANES) {
            const __mmask16 mask = lanes_left(op->n - i);
            const __m512 x = _mm512_maskz_loadu_ps(mask, from + i);
            __m512 inner = x;
            if (op->flags & GELU) { // (1 + tanh y) / 2 = 1 / (1 + e^(-2 y))
                inner = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_mul_ps(x, x), x), _mm512_set1_ps(0.044715f), x);
                inner = _mm512_mul_ps(inner, _mm512_set1_ps(2 * 0.7978845608f));
            }
            const __m512 below = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), inner)));
            __m512 found = _mm512_div_ps(x, below);
            if (op->flags & GATED)
                found = _mm512_mul_ps(found, _mm512_maskz_loadu_ps(mask, from + op->n + i));
            _mm512_mask_storeu_ps(to + i, mask, found);
        }
    }
}

static void add(const Operation *op, const Step *step)
{
    const int threads = threads_for(step, (int64_t)step->tokens * op->n * 4);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int token = 0; token < step->tokens; token++) {
        const float *from = row_of(step, op->source, token, op->source_column);
        float *to = row_of(step, op->target, token, op->target_column);
        for (int i = 0; i < op->n; i++)
            to[i] += from[i];
    }
}

// The `chosen` likeliest of some experts for a token, the first of those that are alike, and their shares, which are 1
// together. NaN among the scores becomes NaN in the shares.
static void choose(const float *scores, int count, int chosen, int *experts, float *shares)
{
    float sum = 0;
    for (int place = 0; place < chosen; place++) {
        experts[place] = -1;
        for (int expert = 0; expert < count; expert++) {
            int is_free = 1;
            for (int before = 0; before < place; before++)
                is_free &= experts[before] != expert;
            if (is_free && (experts[place] < 0 || scores[expert] > scores[experts[place]]))
                experts[place] = expert;
        }
        shares[place] = expf(scores[experts[place]] - scores[experts[0]]);
        sum += shares[place];
    }
    for (int expert = 0; expert < count; expert++)
        sum += scores[expert] - scores[expert]; // 0, or NaN
    for (int place = 0; place < chosen; place++)
        shares[place] /= sum;
}

// Of `count` experts the `k` likeliest for each token, by the scores in the buffer `other`: the rows of `n` numbers of
// all tokens that chose an expert go together through its three operations, and are added to the target by its share.
static void experts(const Operation *op, const Step *step)
{
    const Operation *parts = op->weights;
    int chosen[MOST_TOKENS][MOST_EXPERTS], tokens[MOST_TOKENS];
    float shares[MOST_TOKENS][MOST_EXPERTS], share[MOST_TOKENS];
    for (int token = 0; token < step->tokens; token++)
        choose(row_of(step, op->other, token, 0), op->count, op->k, chosen[token], shares[token]);
    for (int expert = 0; expert < op->count; expert++, parts += 3) {
        Step own = *step;
        own.tokens = 0;
        for (int token = 0; token < step->tokens; token++)
            for (int place = 0; place < op->k; place++)
                if (chosen[token][place] == expert) {
                    const float *from = row_of(step, op->source, token, op->source_column);
                    memcpy(row_of(step, parts[0].source, own.tokens, 0), from, 4 * op->n);
                    share[own.tokens] = shares[token][place];
                    tokens[own.tokens++] = token;
                }
        if (!own.tokens)
            continue;
        product(&parts[0], &own);
        activate(&parts[1], &own);
        product(&parts[2], &own);
        for (int row = 0; row < own.tokens; row++) {
            const float *from = row_of(step, parts[2].target, row, 0);
            float *to = row_of(step, op->target, tokens[row], op->target_column);
            for (int i = 0; i < op->n; i++)
                to[i] += share[row] * from[i];
        }
    }
}

// From here on there are only the tokens whose logits are asked for.
static void keep(const Operation *op, Step *step)
{
    if (step->kept)
        step->tokens = step->num_kept;
    for (int token = 0; token < step->tokens; token++)
        memcpy(row_of(step, op->target, token, 0), row_of(step, op->source, step->kept ? step->kept[token] : token, 0),
               4 * op->n);
}

// Which formats these kernels have here, a bit for each.
int formats(void)
{
    int found = 1 << FP32 | 1 << BF16 | 1 << NF4 | 1 << PLAIN_FP32 | 1 << PLAIN_BF16;
#ifdef __AVX512VNNI__
    found |= 1 << INT8;
#endif
    return found;
}

// The operations one after the other.
void run(const Operation *operations, int count, const Step *step)
{
    Step own = *step;
    for (const Operation *op = operations; op < operations + count; op++)
        switch (op->kind) {
        case EMBED: embed(op, &own); break;
        case NORM: norm(op, &own); break;
        case PRODUCT: product(op, &own); break;
        case ROTATE: rotate(op, &own); break;
        case ATTEND: own.spans ? attend_pages(op, &own) : attend(op, &own); break;
        case ACTIVATE: activate(op, &own); break;
        case ADD: add(op, &own); break;
        case EXPERTS: experts(op, &own); break;
        case KEEP: keep(op, &own); break;
        }
}
