/* A pass over the vectors of one group of a weight, and how it is made on threads. */

#ifndef LIGHTNING_COMPRESS_VECTOR_PASSES_H
#define LIGHTNING_COMPRESS_VECTOR_PASSES_H

#include "vectors.h"

/* A pass over the vectors of one group, which is (chunks, dimensions, row): channels that follow each other are the
elements of a vector, and lie `row` apart. Palettes are (clusters, dimensions). What is not used is NULL.

after: the centroids after the update. share: the gradient by those over what is attended to them. carried: gradients
of the vectors. results: like the weight. sums: for each part (clusters, 1 + 2 * dimensions), of which a kind of pass
uses what it says. totals: for each part, 2 + dimensions: the sum of squared distances to the nearest centroid, the
number of vectors, and the sum of the vectors or of what they carry. */
typedef struct {
    int64_t next, parts, failed;
    const float *weight, *carried;
    int64_t chunks, dimensions, row;
    VectorPalette palette;
    const float *after, *share;
    float floor, factor; /* factor: 2 / temperature */
    int64_t skip_zeros;
    float *results;
    uint8_t *indices;
    double *sums, *totals;
} VectorPass;

/* Makes a pass of one kind; sums and totals of all parts come to lie in the first. Returns 1 where there was no
memory. */
int run_vector_pass(Fork fork, VectorPass *pass, PassKind kind);

#endif
