"""One place sets up what every test relies on: eight virtual CPU devices and strict dtypes."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
