/* SPDX-License-Identifier: Apache-2.0 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "gossip/topology.h"

START_TEST(rings_lines_and_full_graphs_have_their_edges)
{
	struct topology t;
	ck_assert_int_eq(topology_init(&t, "ring", 5, NULL), 0);
	ck_assert_uint_eq(t.edge_count, 5);
	ck_assert(topology_has_edge(&t, 4, 0) && topology_has_edge(&t, 0, 4) && !topology_has_edge(&t, 0, 2));
	for (uint32_t i = 0; i < 5; i++)
		ck_assert_uint_eq(topology_degree(&t, i), 2);
	ck_assert(topology_connected(&t));
	topology_fini(&t);
	ck_assert_int_eq(topology_init(&t, "ring", 2, NULL), 0);
	ck_assert_uint_eq(t.edge_count, 1);
	topology_fini(&t);
	ck_assert_int_eq(topology_init(&t, "line", 4, NULL), 0);
	ck_assert_uint_eq(t.edge_count, 3);
	ck_assert_uint_eq(topology_degree(&t, 0), 1);
	topology_fini(&t);
	ck_assert_int_eq(topology_init(&t, "full", 6, NULL), 0);
	ck_assert_uint_eq(t.edge_count, 15);
	topology_fini(&t);
	const char *const words[] = {"ring", "line", "full"};
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(topology_init(&t, words[i], 1, NULL), 0);
		ck_assert_uint_eq(t.edge_count, 0);
		ck_assert(topology_connected(&t));
		topology_fini(&t);
		topology_fini(&t);
	}
}
END_TEST

START_TEST(an_explicit_list_is_sorted_and_checked)
{
	struct topology t;
	ck_assert_int_eq(topology_init(&t, "3-2,0-1", 4, NULL), 0);
	ck_assert_uint_eq(t.edge_count, 2);
	ck_assert_uint_eq(t.edges[1].low, 2);
	ck_assert_uint_eq(t.edges[1].high, 3);
	ck_assert(!topology_connected(&t));
	topology_fini(&t);
	static const struct {
		const char *text;
		const char *says;
	} bad[] = {
		{"rnig", "expected ring"},
		{"", "expected ring"},
		{"0-1,", "edge 2"},
		{"0-4", "above 3"},
		{"1-1", "itself"},
		{"0-1,1-2,1-0", "0-1 is given twice"},
		{"0-1 ", "malformed"},
		{"0--1", "malformed"},
		{"99999999999999999999-1", "above 3"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct fault f = {0};
		ck_assert_int_eq(topology_init(&t, bad[i].text, 4, &f), SAKIORI_EINVAL);
		ck_assert_msg(strstr(f.text, bad[i].says) != NULL, "%s", f.text);
		topology_fini(&t);
	}
	ck_assert_int_eq(topology_init(&t, "ring", 0, NULL), SAKIORI_EINVAL);
	ck_assert_int_eq(topology_init(&t, "ring", TOPOLOGY_MAX_SITES + 1, NULL), SAKIORI_EINVAL);
}
END_TEST

/* Random graphs; some edges do not count this round, so what is left has fewer edges than the degrees that the updates
 * carried. Both ends go by the same pair of degrees: the matrix is symmetric, doubly stochastic and nowhere negative.
 */
START_TEST(mixing_is_doubly_stochastic_whatever_drops_out)
{
	enum { MAX = 16 };
	struct rng r;
	rng_init(&r, 5, 5);
	for (unsigned trial = 0; trial < 300; trial++) {
		size_t n = 2 + rng_below(&r, MAX - 1);
		struct topology t;
		ck_assert_int_eq(topology_init(&t, "full", n, NULL), 0);
		size_t kept = 0;
		for (size_t e = 0; e < t.edge_count; e++)
			if (rng_uniform(&r) < 0.4f)
				t.edges[kept++] = t.edges[e];
		t.edge_count = kept;
		float gamma = 0.1f + 0.9f * rng_uniform(&r), loss = rng_uniform(&r);
		double w[MAX][MAX] = {{0}};
		for (size_t e = 0; e < t.edge_count; e++) {
			if (rng_uniform(&r) < loss)
				continue;
			uint32_t a = t.edges[e].low, b = t.edges[e].high;
			uint32_t degree_a = topology_degree(&t, a), degree_b = topology_degree(&t, b);
			w[a][b] = (double)topology_weight(gamma, degree_a, degree_b);
			w[b][a] = (double)topology_weight(gamma, degree_b, degree_a);
			ck_assert(w[a][b] > 0 && w[a][b] <= 0.5);
		}
		for (size_t i = 0; i < n; i++) {
			double row = 0, column = 0;
			for (size_t j = 0; j < n; j++) {
				ck_assert_double_eq(w[i][j], w[j][i]);
				row += w[i][j];
				column += w[j][i];
			}
			/* what is left of 1 a site gives to itself: the same for row and column, and above 0 */
			ck_assert_double_lt(row, 1);
			ck_assert_double_eq(row, column);
		}
		topology_fini(&t);
	}
}
END_TEST

START_TEST(weights_are_those_of_metropolis_and_hastings)
{
	ck_assert_float_eq(topology_weight(1, 2, 2), 1.0f / 3);
	ck_assert_float_eq(topology_weight(1, 1, 1), 0.5f);
	ck_assert_float_eq(topology_weight(0.5f, 1, 3), 0.125f);
	ck_assert_float_eq(topology_weight(0.5f, 3, 1), 0.125f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("topology");
	TCase *t = tcase_create("topology");
	tcase_add_test(t, rings_lines_and_full_graphs_have_their_edges);
	tcase_add_test(t, an_explicit_list_is_sorted_and_checked);
	tcase_add_test(t, mixing_is_doubly_stochastic_whatever_drops_out);
	tcase_add_test(t, weights_are_those_of_metropolis_and_hastings);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
