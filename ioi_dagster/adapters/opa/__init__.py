"""OPA: building policies with the official compiler, and evaluating the WebAssembly that it makes."""
