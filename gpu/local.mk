# The CUDA backend: one loadable module with one exported symbol. libtool has no CUDA tag, so nvcc is driven directly.
gpu_cu = \
	%D%/attention.cu %D%/attention_flash.cu %D%/attention_general.cu \
	%D%/device.cu %D%/memory.cu %D%/record.cu \
	%D%/weight.cu %D%/weight_packed.cu \
	%D%/gemm.cu %D%/gemm_kept.cu %D%/linear.cu %D%/lora.cu %D%/lora_tokens.cu %D%/lora_skinny.cu %D%/lora_tall.cu \
	%D%/norm.cu %D%/rope.cu %D%/activation.cu %D%/dropout.cu %D%/loss.cu %D%/vector.cu %D%/quantize.cu \
	# end
# Host code that drives cuDNN, only where its frontend was found.
gpu_cudnn_cu = \
	%D%/attention_cudnn.cu \
	# end
EXTRA_DIST += $(gpu_cu) $(gpu_cudnn_cu) %D%/gpu.cuh %D%/attention.cuh %D%/elementwise.cuh \
	%D%/gemm.cuh %D%/lora.cuh %D%/mma.cuh %D%/philox.cuh %D%/sakiori-cuda.map
SUFFIXES = .cu .cu.o
if CUDA
gpu_objs = $(gpu_cu:.cu=.cu.o)
# Code for each card, and PTX of the last for cards yet to come; host code needs one.
NVCC_CODE = for a in $(CUDA_ARCHITECTURES); do code="$$code -gencode=arch=compute_$$a,code=sm_$$a"; done; \
	code="$$code -gencode=arch=compute_$$a,code=compute_$$a"
NVCC_OPTIMIZE = -O3
NVCC_COMPILE = $(NVCC) -std=c++20 $(NVCC_OPTIMIZE) --threads 2 -Xcompiler -fPIC,-fvisibility=hidden,-Wall $(NVCC_WERROR) $(CUDNN_CPPFLAGS) \
	$(AM_CPPFLAGS) $(NVCCFLAGS)
AM_V_NVCC = $(AM_V_NVCC_@AM_V@)
AM_V_NVCC_ = $(AM_V_NVCC_@AM_DEFAULT_V@)
AM_V_NVCC_0 = @echo "  NVCC    " $@;
.cu.cu.o:
	@$(MKDIR_P) $(@D)
	$(AM_V_NVCC)code=; $(NVCC_CODE); $(NVCC_COMPILE) $$code -MD -MP -MF $(@:.o=.d) -c $< -o $@
if CUDNN
gpu_objs += $(gpu_cudnn_cu:.cu=.cu.o)
# It only drives, and the frontend's templates take the compiler twice as long at -O3.
$(gpu_cudnn_cu:.cu=.cu.o): NVCC_OPTIMIZE = -O1
endif
%D%/sakiori-cuda.so: $(gpu_objs) %D%/sakiori-cuda.map
	$(AM_V_NVCC)$(NVCC) $(NVCCFLAGS) -shared -Xlinker -z,defs,-z,relro,-z,now,--version-script=$(srcdir)/%D%/sakiori-cuda.map \
		-o $@ $(gpu_objs) -lcublasLt -ldl
-include $(gpu_objs:.o=.d)
sakiorimoduledir = $(pkglibdir)
sakiorimodule_SCRIPTS = %D%/sakiori-cuda.so
CLEANFILES += %D%/sakiori-cuda.so %D%/*.cu.o %D%/*.cu.d
endif
