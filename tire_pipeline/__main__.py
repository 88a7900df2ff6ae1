from tire_pipeline.cli import main

main()
