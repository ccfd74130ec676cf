/* SPDX-License-Identifier: Apache-2.0 */
/* Which memory mode is chosen for what a device and its host have left, and what is said when none fits. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "train/memory.h"
#include "train/weights.h"

static struct {
	struct model_file *file;
	struct lora_layout layout;
	struct memory_request request;
	struct memory_breakdown modes[MEMORY_MODES];
} at;

static void setup(void)
{
	struct lora_widths widths;
	struct fault f = {0};
	ck_assert_msg(model_file_open("shape:llama-3.2-1b", &at.file, &f) == 0, "%s", f.text);
	weights_widths(model_file_shape(at.file), &widths);
	ck_assert_int_eq(lora_layout_init(&at.layout, &widths,
				 &(struct lora_settings){.rank = 16, .alpha = 32, .targets = LORA_ALL}, &f),
		0);
	at.request = (struct memory_request){.file = at.file,
		.layout = &at.layout,
		.device = "cuda",
		.act = DTYPE_BF16,
		.storage = WEIGHT_BF16,
		.tokens = 4 * 2048,
		.longest = 2048,
		.mode = MEMORY_MODES};
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++)
		memory_count(&at.request, m, &at.modes[m]);
}

static void teardown(void)
{
	lora_layout_fini(&at.layout);
	model_file_close(at.file);
}

static int choose(size_t limit, size_t host_limit, enum memory_mode *mode, struct fault *f)
{
	struct memory_breakdown b;
	int rc = memory_choose(&at.request, limit, host_limit, mode, &b, f);
	if (!rc)
		ck_assert(!memcmp(&b, &at.modes[*mode], sizeof b));
	return rc;
}

START_TEST(the_first_mode_that_fits_is_taken)
{
	enum memory_mode mode;
	struct fault f;
	ck_assert_int_eq(choose(0, 0, &mode, &f), 0);
	ck_assert_int_eq(mode, MEMORY_KEEP);
	/* Each takes less than the one before, but for the whole blocks beside what is offloaded. */
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++) {
		ck_assert_int_eq(choose(at.modes[m].device, 0, &mode, &f), 0);
		ck_assert_int_le(mode, m);
		ck_assert_uint_le(at.modes[mode].device, at.modes[m].device);
	}
	ck_assert_int_eq(choose(at.modes[MEMORY_KEEP].device - 1, 0, &mode, &f), 0);
	ck_assert_int_eq(mode, MEMORY_SELECTIVE);
}
END_TEST

START_TEST(what_the_host_has_no_room_for_is_not_offloaded)
{
	enum memory_mode mode;
	struct fault f;
	size_t limit = at.modes[MEMORY_SELECTIVE].device - 1, host = at.modes[MEMORY_OFFLOAD].host;
	ck_assert_uint_gt(host, 0);
	ck_assert_int_eq(choose(limit, host, &mode, &f), 0);
	ck_assert_int_eq(mode, MEMORY_OFFLOAD);
	ck_assert_int_eq(choose(limit, host - 1, &mode, &f), 0);
	ck_assert_int_eq(mode, MEMORY_BLOCKS);
	/* Asked for all the same: the sentence is about the host, not about a device that has room. */
	at.request.mode = MEMORY_OFFLOAD;
	ck_assert_int_eq(choose(limit, (size_t)1 << 20, &mode, &f), SAKIORI_ENOMEM);
	ck_assert_msg(strstr(f.text, "in host memory, of which 1 MiB may be used") != NULL, "%s", f.text);
	ck_assert_msg(strstr(f.text, "--micro-tokens") != NULL, "%s", f.text);
}
END_TEST

START_TEST(a_refusal_names_a_batch_that_fits)
{
	enum memory_mode mode;
	struct fault f;
	for (enum memory_mode m = 0; m <= MEMORY_MODES; m++) {
		at.request.mode = m;
		at.request.tokens = 4 * 2048;
		/* Half way from one row to four; a mode of its own may be in need of less. */
		size_t limit = at.modes[m == MEMORY_MODES ? MEMORY_BLOCKS_OFFLOAD : m].device, rows;
		struct memory_request one = at.request;
		struct memory_breakdown b;
		one.tokens = 2048;
		memory_count(&one, m == MEMORY_MODES ? MEMORY_BLOCKS_OFFLOAD : m, &b);
		limit = (limit + b.device) / 2;
		ck_assert_int_eq(choose(limit, 0, &mode, &f), SAKIORI_ENOMEM);
		const char *word = strstr(f.text, "--micro-tokens ");
		ck_assert_msg(word != NULL, "%s", f.text);
		rows = strtoul(word + strlen("--micro-tokens "), NULL, 10) / 2048;
		ck_assert_msg(rows >= 1 && rows < 4, "%s", f.text);
		at.request.tokens = rows * 2048;
		ck_assert_msg(memory_choose(&at.request, limit, 0, &mode, &b, &f) == 0, "%s", f.text);
		at.request.tokens = (rows + 1) * 2048;
		ck_assert_int_eq(memory_choose(&at.request, limit, 0, &mode, &b, &f), SAKIORI_ENOMEM);
	}
}
END_TEST

static void store_as(const char *name, enum stored_type type)
{
	((struct model_tensor *)(uintptr_t)model_file_tensor(at.file, name))->type = type;
}

START_TEST(blocks_stay_packed_where_all_of_a_weight_are_of_one_kind)
{
	struct memory_breakdown before, mixed, packed;
	size_t key = (size_t)512 * 2048, query = (size_t)2048 * 2048;
	at.request.storage = WEIGHT_STORED;
	memory_count(&at.request, MEMORY_KEEP, &before);
	store_as("model.layers.0.self_attn.q_proj.weight", STORED_Q4_0);
	store_as("model.layers.0.self_attn.k_proj.weight", STORED_Q4_0);
	store_as("model.layers.0.self_attn.v_proj.weight", STORED_Q8_0);
	memory_count(&at.request, MEMORY_KEEP, &mixed);
	ck_assert_uint_eq(mixed.attention_weights, before.attention_weights);
	store_as("model.layers.0.self_attn.v_proj.weight", STORED_Q4_0);
	store_as("model.layers.0.self_attn.o_proj.weight", STORED_Q8_0);
	memory_count(&at.request, MEMORY_KEEP, &packed);
	/* 18 bytes for 32 elements, 34 of 8 bits; 64 as bf16, with which the room for adapters goes, too. */
	size_t room = (2048 + 2 * 512) * variants_group_room(&at.layout, VARIANTS_QKV) * 2;
	ck_assert_uint_gt(room, 0);
	ck_assert_uint_eq(before.attention_weights - packed.attention_weights,
		(query + 2 * key) / 32 * (64 - 18) + query / 32 * (64 - 34) + room);
}
END_TEST

START_TEST(a_cpu_offloads_nothing)
{
	enum memory_mode mode;
	struct fault f;
	at.request.device = "cpu";
	at.request.mode = MEMORY_BLOCKS_OFFLOAD;
	ck_assert_int_eq(choose(0, 0, &mode, &f), SAKIORI_EUNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(f.text, "use keep, selective or blocks"));
}
END_TEST

START_TEST(some_of_a_device_is_left_to_what_is_not_counted)
{
	const struct device_memory unknown = {0}, small = {.free = 1000}, large = {.free = (size_t)16 << 30};
	ck_assert_uint_eq(memory_device_limit(&unknown), 0);
	ck_assert_uint_gt(memory_device_limit(&small), 0);
	ck_assert_uint_lt(memory_device_limit(&small), small.free);
	ck_assert_uint_lt(memory_device_limit(&large), large.free);
	ck_assert_uint_gt(memory_device_limit(&large), (size_t)15 << 30);
}
END_TEST

/* One row of the model at hand, two, and so on up to 8192 tokens: no count is less than the one before. */
static void count_growing_rows(const char *name, size_t longest, enum weight_storage storage)
{
	struct memory_breakdown before, now;
	for (enum memory_mode m = 0; m < MEMORY_MODES; m++) {
		memset(&before, 0, sizeof before);
		at.request.longest = longest;
		at.request.storage = storage;
		for (at.request.tokens = longest; at.request.tokens <= 8192; at.request.tokens += longest) {
			memory_count(&at.request, m, &now);
			ck_assert_msg(now.device >= before.device && now.host >= before.host,
				"%s, mode %s, rows of %zu: %zu tokens take %zu bytes, a row less %zu", name,
				memory_mode_name(m), longest, at.request.tokens, now.device, before.device);
			before = now;
		}
	}
}

/* Largest batches are found by halving: that is right only for what grows. */
START_TEST(dropout_and_texts_are_counted_and_nothing_without_them)
{
	struct memory_breakdown plain, dropped, text;
	for (enum memory_mode mode = 0; mode < MEMORY_MODES; mode++) {
		memory_count(&at.request, mode, &plain);
		at.request.dropout = true;
		memory_count(&at.request, mode, &dropped);
		at.request.dropout = false;
		at.request.text_tokens = 100;
		memory_count(&at.request, mode, &text);
		at.request.text_tokens = 0;
		/* the widest input of every token, and ds of three adapters instead of one, in bf16 */
		size_t tokens = at.request.tokens, widest = at.layout.widths.ffn * 2, ds = 2 * at.layout.rank * 2;
		ck_assert_uint_ge(dropped.shared - plain.shared, tokens * (widest + ds));
		ck_assert_uint_le(dropped.shared - plain.shared, tokens * (widest + ds) + 1024);
		ck_assert_uint_eq(dropped.kept, plain.kept);
		/* keys and values of every layer at least */
		ck_assert_uint_gt(text.other - plain.other,
			100 * at.layout.widths.layers * 2 * (at.layout.widths.query + 2 * at.layout.widths.key));
		ck_assert_uint_eq(text.device - text.other, plain.device - plain.other);
	}
}
END_TEST

START_TEST(more_rows_never_take_less)
{
	static const char *const shapes[] = {
		"shape:smollm2-135m", "shape:llama-3.2-1b", "shape:llama-3.2-3b", "shape:llama-3-8b"};
	struct lora_widths widths;
	struct fault f = {0};
	teardown();
	ck_assert_msg(model_file_open(shapes[_i], &at.file, &f) == 0, "%s", f.text);
	weights_widths(model_file_shape(at.file), &widths);
	ck_assert_int_eq(lora_layout_init(&at.layout, &widths,
				 &(struct lora_settings){.rank = 16, .alpha = 32, .targets = LORA_ALL}, &f),
		0);
	at.request.file = at.file;
	for (enum dtype act = DTYPE_F32; act <= DTYPE_BF16; act++) {
		at.request.act = act;
		count_growing_rows(shapes[_i], 64, act == DTYPE_F32 ? WEIGHT_F32 : WEIGHT_BF16);
		count_growing_rows(shapes[_i], 100, act == DTYPE_F32 ? WEIGHT_F32 : WEIGHT_NF4);
		count_growing_rows(shapes[_i], 512, act == DTYPE_F32 ? WEIGHT_F32 : WEIGHT_FP8);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("memory");
	TCase *t = tcase_create("memory");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, the_first_mode_that_fits_is_taken);
	tcase_add_test(t, what_the_host_has_no_room_for_is_not_offloaded);
	tcase_add_test(t, a_refusal_names_a_batch_that_fits);
	tcase_add_test(t, blocks_stay_packed_where_all_of_a_weight_are_of_one_kind);
	tcase_add_test(t, a_cpu_offloads_nothing);
	tcase_add_test(t, some_of_a_device_is_left_to_what_is_not_counted);
	tcase_add_test(t, dropout_and_texts_are_counted_and_nothing_without_them);
	tcase_add_loop_test(t, more_rows_never_take_less, 0, 4);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
