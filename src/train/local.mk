noinst_LIBRARIES += libtrain.a
libtrain_a_SOURCES = \
	%D%/lora.h %D%/lora.c \
	%D%/weights.h %D%/weights.c \
	%D%/activations.h %D%/activations.c \
	%D%/input.h %D%/input.c \
	%D%/model.h %D%/model_pass.h %D%/model.c %D%/model_run.c \
	%D%/optim.h %D%/optim.c \
	%D%/variants.h %D%/variants.c %D%/variants_timed.c \
	%D%/memory.h %D%/memory_backend.h %D%/memory.c %D%/memory_backend.c \
	%D%/checkpoint.h %D%/checkpoint.c \
	%D%/lora_peft.h %D%/lora_peft.c \
	%D%/trainer.h %D%/trainer_private.h %D%/trainer.c %D%/trainer_config.c %D%/trainer_state.c %D%/trainer_text.c \
	%D%/resume.h %D%/resume.c \
	%D%/generator.h %D%/generator.c \
	# end
