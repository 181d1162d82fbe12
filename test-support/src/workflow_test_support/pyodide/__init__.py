"""Programs and tests in Pyodide, the Python of Cloudflare's Workers."""
