/* A pass over the vectors of one group of a weight, and how it is made on threads. */

#ifndef LIGHTNING_COMPRESS_VECTOR_PASSES_H
#define LIGHTNING_COMPRESS_VECTOR_PASSES_H

#include "passes.h"

#define MOST_DIMENSIONS 64
#define MOST_CLUSTERS 256
#define LEAST_BLOCK 8 /* Vectors of a block on processors that do the fewest at once. */

/* What is paid to a palette, and how: centroids are (clusters, dimensions). precise: the same in double precision where
they are so far apart that single precision tells too little, otherwise NULL. */
typedef struct {
    const float *centroids;
    const double *precise;
    int64_t clusters;
    float scale, zero_preference, felt; /* scale: log2(e) / temperature; felt: squared distances beyond the least */
} VectorPalette;

/* A pass over the vectors of one group, which is (chunks, dimensions, row): channels that follow each other are the
elements of a vector, and lie `row` apart. Palettes are (clusters, dimensions). What is not used is NULL.

after: the centroids after the update. share: the gradient by those over what is attended to them. carried: what is
summed up, or the gradients by the output, like the weight. results: like the weight. order: where the first elements
of vectors lie, near ones together. near: of each block of those, bits of the centroids that matter to it, 64 to a
word, which a pass that `narrows` finds, and others over that palette use. sums: for each part (clusters, 1 +
dimensions): of attention and of attention times what is summed, or gradients by the centroids before in columns 1 and
on. totals: for each part, 2 + dimensions: the sum of squared distances to the nearest centroid, the number of vectors,
and the sum of the vectors or of what they carry. */
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
    int64_t narrows;
    int32_t *order;
    uint64_t *near;
    double *sums, *totals;
} VectorPass;

/* What a thread does of a pass, by kind, and for vectors of 2, 4, 8 and any number of dimensions. */
typedef void (*VectorTasks[LOOK_UP + 1][4])(void *);

extern const VectorTasks vector_tasks_of_16, vector_tasks_of_8, vector_tasks_of_4;

/* Makes a pass of one kind; sums and totals of all parts come to lie in the first. Returns 1 where there was no
memory. */
int run_vector_pass(Fork fork, VectorPass *pass, PassKind kind);

/* Fills `order`, for palettes of many. Returns 1 where there was no memory. */
int order_vectors(Fork fork, VectorPass *pass);

#endif
