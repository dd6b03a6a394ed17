/* Between the bins of a grid and the points of its panels. As passes.py. */

#include "passes.h"

#include <stdlib.h>

/* What lies in bins, with its moments, gathered on the points of their panels. at_edges: (POINTS, bins + 1). */
FAST int gather(const double *tables, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                       const double *steps, const double *at_edges, double *points)
{
    double *edges = malloc((size_t)(2 * bins + 1) * sizeof(double)), *right = edges + bins + 1;
    if (!edges)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const double start = starts[group], step = steps[group], scale = 1 / step;
        for (int64_t panel = 0; panel < panels; panel++) {
            const double *entry = tables + (group * panels + panel) * bins * 2;
            /* What a bin holds lies at its edges, as a line through them would. */
            for (int64_t bin = 0; bin < bins; bin++) {
                const double place = start + step * (double)(panel * bins + bin);
                right[bin] = (entry[2 * bin + 1] - place * entry[2 * bin]) * scale;
                edges[bin] = entry[2 * bin] - right[bin];
            }
            for (int64_t bin = 1; bin < bins; bin++)
                edges[bin] += right[bin - 1];
            edges[bins] = right[bins - 1];
            for (int k = 0; k < POINTS; k++) {
                const double *at = at_edges + k * (bins + 1);
                double sum = 0;
                for (int64_t edge = 0; edge <= bins; edge++)
                    sum += edges[edge] * at[edge];
                points[(group * panels + panel) * POINTS + k] = sum;
            }
        }
    }
    free(edges);
    return 0;
}

/* Intercepts and slopes of a function's chords over all bins, from its values on the points; those of the next bin come
`stride` floats after. */
FAST int find_chords(const double *points, int64_t groups, int64_t panels, int64_t bins, const double *starts,
                     const double *steps, const double *at_edges, int64_t stride, float *chords)
{
    double *values = malloc((size_t)(2 * bins + 1) * sizeof(double)), *steepness = values + bins + 1;
    if (!values)
        return 1;
    for (int64_t group = 0; group < groups; group++) {
        const double start = starts[group], step = steps[group], scale = 1 / step;
        for (int64_t panel = 0; panel < panels; panel++) {
            const double *point = points + (group * panels + panel) * POINTS;
            float *chord = chords + (group * panels + panel) * bins * stride;
            for (int64_t edge = 0; edge <= bins; edge++) {
                double sum = 0;
                for (int k = 0; k < POINTS; k++)
                    sum += point[k] * at_edges[k * (bins + 1) + edge];
                values[edge] = sum;
            }
            for (int64_t bin = 0; bin < bins; bin++)
                steepness[bin] = (values[bin + 1] - values[bin]) * scale;
            for (int64_t bin = 0; bin < bins; bin++)
                values[bin] -= steepness[bin] * (start + step * (double)(panel * bins + bin));
            for (int64_t bin = 0; bin < bins; bin++) {
                chord[bin * stride] = (float)values[bin];
                chord[bin * stride + 1] = (float)steepness[bin];
            }
        }
    }
    free(values);
    return 0;
}
