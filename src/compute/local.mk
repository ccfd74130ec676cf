noinst_LIBRARIES += libcompute.a
libcompute_a_SOURCES = \
	%D%/compute.h %D%/compute.c \
	%D%/cpu/cpu.h %D%/cpu/device.c \
	%D%/cpu/simd.h %D%/cpu/each_act.h \
	%D%/cpu/vector.c %D%/cpu/vector.inc \
	%D%/cpu/gemm.h %D%/cpu/gemm.c \
	%D%/cpu/weight.h %D%/cpu/weight.c %D%/cpu/weight.inc \
	%D%/cpu/weight_packed.h %D%/cpu/weight_packed.c \
	%D%/cpu/linear.c \
	%D%/cpu/lora.c %D%/cpu/lora.inc \
	%D%/cpu/dropout.c %D%/cpu/dropout.inc \
	%D%/cpu/norm.c %D%/cpu/norm.inc \
	%D%/cpu/rope.c %D%/cpu/rope.inc \
	%D%/cpu/activation.c %D%/cpu/activation.inc \
	%D%/cpu/attention.c %D%/cpu/attention.inc \
	%D%/cpu/loss.c %D%/cpu/loss.inc \
	%D%/cpu/quantize.h %D%/cpu/quantize.c \
	# end
libcompute_a_CPPFLAGS = $(AM_CPPFLAGS) -DPKGLIBDIR='"$(pkglibdir)"'
# Vector loops: sqrt sets no errno and no floating-point exception is looked at, or the compiler keeps loops scalar; clang may say so.
libcompute_a_CFLAGS = $(AM_CFLAGS) -fno-math-errno -fno-trapping-math -Wno-pass-failed
