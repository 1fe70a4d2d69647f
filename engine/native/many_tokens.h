// Products of many tokens with 4-bit weights.
#ifndef MANY_TOKENS_H
#define MANY_TOKENS_H

#include "inputs.h"

// As models/quantized multiplies many tokens with 4 bits: by integers, to which the weights are rounded again, a few
// outputs of all tokens at a time. The types are those of models/native/integer_products.c.
static void product_of_many(const Operation *op, const Step *step)
{
    struct Tokens {
        const int8_t *rows;
        const int32_t *sums;
        const float *sizes;
        const int32_t *rests;
        int64_t tokens, num_rows, k;
    };
    struct Results {
        void *numbers;
        int64_t stride;
        int32_t is_bf16, is_adding;
    };
    typedef void FourBits(const struct Tokens *, const void *codes, const void *scales, const void *levels,
                          const float *bias, int64_t n, int32_t *found, const struct Results *, int threads);
    Rows rows;
    float sizes[MOST_ROWS];
    prepare_integers(op, step, &rows);
    for (int row = 0; row < rows.count; row++)
        sizes[row] = rows.scale[row] * LEVELS;
    for (int token = 0; token < step->tokens; token++)
        rows.rest[token] = rows.rest[token] ? rows.rest[token] : -1; // no rest is row 0
    const struct Tokens tokens = {(const int8_t *)step->scratch, rows.sum, sizes, rows.rest,
                                  step->tokens, rows.count, op->k};
    const struct Results results = {row_of(step, op->target, 0, op->target_column), step->widths[op->target], 0,
                                    op->flags & ADDING};
    const int threads = threads_for(step, (int64_t)op->n * op->k * step->tokens);
    ((FourBits *)op->many)(&tokens, op->weights, op->scales, op->many_levels, op->bias, op->n, step->found, &results,
                           threads);
}

#endif
