# tests of train
if HAVE_CHECK
check_PROGRAMS += \
	tests/check_lora \
	tests/check_optim \
	tests/check_variants \
	tests/check_orders \
	tests/check_checkpoint \
	tests/check_memory \
	tests/check_model \
	tests/check_architectures \
	tests/check_recording \
	tests/check_trainer \
	tests/check_trainer_features \
	# end
tests_check_lora_SOURCES = tests/check_lora.c
tests_check_lora_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_lora_LDADD = libtrain.a $(BASE_LIBS) $(CHECK_LIBS) -lm
tests_check_optim_SOURCES = tests/check_optim.c
tests_check_optim_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_optim_LDADD = libtrain.a $(COMPUTE_LIBS) $(CHECK_LIBS)
tests_check_variants_SOURCES = tests/check_variants.c
tests_check_variants_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_variants_LDADD = libtrain.a $(COMPUTE_LIBS) $(CHECK_LIBS)
tests_check_orders_SOURCES = tests/check_orders.c
tests_check_orders_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_orders_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=gemm_tokens,--wrap=gemm_over_tokens
tests_check_orders_LDADD = libtrain.a $(COMPUTE_LIBS) $(CHECK_LIBS)
tests_check_checkpoint_SOURCES = tests/check_checkpoint.c
tests_check_checkpoint_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_checkpoint_LDADD = libtrain.a $(FORMATS_LIBS) $(CHECK_LIBS)
tests_check_memory_SOURCES = tests/check_memory.c
tests_check_memory_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_memory_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS)
tests_check_model_SOURCES = tests/check_model.c
tests_check_model_CPPFLAGS = $(AM_CPPFLAGS) $(CHECK_CFLAGS)
tests_check_model_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS)
tests_check_architectures_SOURCES = tests/check_architectures.c tests/lib/model_stage.h tests/lib/model_stage.c
tests_check_architectures_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
tests_check_architectures_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS)
tests_check_recording_SOURCES = tests/check_recording.c tests/lib/recorder.h tests/lib/recorder.c
tests_check_recording_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
tests_check_recording_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS)
tests_check_trainer_SOURCES = tests/check_trainer.c tests/lib/trainer_run.h tests/lib/trainer_run.c
tests_check_trainer_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
tests_check_trainer_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS)
tests_check_trainer_features_SOURCES = tests/check_trainer_features.c tests/lib/trainer_run.h tests/lib/trainer_run.c
tests_check_trainer_features_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/tests $(CHECK_CFLAGS)
tests_check_trainer_features_LDADD = $(TRAIN_LIBS) $(CHECK_LIBS)
endif
TESTS += tests/e2e/train_resume.sh tests/e2e/train_features.py tests/e2e/plan.sh tests/e2e/bench.sh tests/e2e/data.sh \
	tests/e2e/export.sh tests/e2e/architectures.sh
EXTRA_DIST += \
	tests/e2e/train_resume.sh \
	tests/e2e/train_features.py \
	tests/e2e/tensorboard.py \
	tests/e2e/bench.sh \
	tests/e2e/plan.sh \
	tests/e2e/data.sh \
	tests/e2e/export.sh \
	tests/golden/adapter.py \
	tests/golden/make_train_golden.py \
	tests/golden/train_golden.safetensors \
	tests/golden/make_train_features.py \
	tests/golden/train_features.safetensors \
	tests/e2e/architectures.sh \
	tests/golden/make_architectures.py \
	tests/golden/architectures.safetensors \
	tests/golden/architectures \
	tests/golden/make_rows.py \
	tests/golden/rows.jsonl \
	tests/golden/rows_eval.jsonl \
	tests/golden/real_losses.json \
	tests/e2e/real_parity.sh \
	bench/peft_parity.py \
	bench/speed_vs_peft.py \
	bench/RESULTS.md \
	# end
